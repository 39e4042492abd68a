"""What `mkdocs build` does besides: documents from outside docs/, pages about methods, and nothing from the net."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from links import fetched, link_targets, linked_names, move_links, repository_path, spaced_lists, without_badges
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pictures import run_example

from nuwa.pruners.catalogue import method_names
from nuwa.report.method_facts import METHOD_GROUPS, group_of
from nuwa.report.method_page import method_page

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "extend.md",
    "CHANGELOG.md": "changes.md",
    "SECURITY.md": "security.md",
    "experiments/README.md": "reproduce.md",
    "experiments/analysis/README.md": "inside_a_model.md",
    "experiments/speed/README.md": "measuring_speed.md",
    "experiments/results/tiny/README.md": "results_tiny.md",
    "experiments/results/positions_2026/README.md": "results_positions_2026.md",
    "nuwa/tiny/llava/README.md": "tiny_llava.md",
    "nuwa/tiny/qwen/README.md": "tiny_qwen.md",
    "nuwa/tiny/video/README.md": "tiny_video.md",
} | {
    file.relative_to(ROOT).as_posix(): f"speed_results/{file.name}"
    for file in sorted(ROOT.glob("experiments/speed/results/*.md"))
}
"""Documents outside docs/, by path, and their pages."""
LISTS_OF_METHODS = ("README.md", "docs/methods.md")
PICTURES = {".png", ".svg"}
CAUTION = (
    "A tiny model and one scene, or clip, with the position ids of the method's authors: a picture of what the method "
    "does, not of how well ([where ids come in](../where_tokens_stand.md))."
)


def on_config(config: MkDocsConfig) -> None:
    """Give every method its place in the navigation."""
    groups = defaultdict(list)
    for name in method_names():
        groups[group_of(name)].append(f"methods/{name}.md")
    (methods,) = (section["Methods"] for section in config.nav if "Methods" in section)
    methods += [{title: groups[group]} for group, title in METHOD_GROUPS.items()]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents from outside docs/ with their pictures, and a page for every method."""
    for document, uri in DOCUMENTS.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / document)))
    for picture in sorted(shown_pictures()):
        files.append(File.generated(config, picture, abs_src_path=str(ROOT / picture)))
    for name in method_names():
        printed, kept = run_example(name)
        files.append(File.generated(config, f"methods/{name}.webp", content=kept))
        files.append(File.generated(config, f"methods/{name}.md", content=site_page(name, printed)))
    return files


def site_page(name: str, printed: str) -> str:
    """A method's page with its picture, and what its example prints."""
    head, rest = method_page(name).split("\n\n|", 1)
    picture = f"[![What {name} keeps of a picture]({name}.webp)]({name}.webp)\n\n{CAUTION}"
    return f"{head}\n\n{picture}\n\n|{rest}\nIt prints, on a laptop:\n```\n{printed}```\n"


def shown_pictures() -> set[str]:
    """The pictures outside docs/ that the documents show."""
    found = {
        repository_path(target, document)
        for document in DOCUMENTS
        for target in link_targets((ROOT / document).read_text(encoding="utf-8"))
    }
    return {path for path in found if path and Path(path).suffix in PICTURES and not path.startswith("docs/")}


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make Markdown that was written for GitHub fit the site."""
    pages = {source_of(file): file.src_uri for file in files}
    source = source_of(page.file)
    text = move_links(without_badges(markdown), source, pages, config.extra["repository"])
    if source in LISTS_OF_METHODS:
        text = linked_names(text, {name: f"methods/{name}.md" for name in method_names()})
    return spaced_lists(text)


def source_of(file: File) -> str:
    """The path of what a page is made of; of a page without a file, that which it would have in docs/."""
    if file.abs_src_path is None:
        return f"docs/{file.src_uri}"
    path = Path(file.abs_src_path)
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else file.src_uri


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a site that would fetch something from the net.

    Raises:
        PluginError: the pages that would.
    """
    pages = sorted(Path(config.site_dir).rglob("*.html"))
    remote = {path.name: tags for path in pages if (tags := fetched(path.read_text(encoding="utf-8")))}
    if remote:
        raise PluginError(f"pages that need the net: {remote}")
