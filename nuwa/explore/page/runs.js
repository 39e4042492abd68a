"use strict";
/* Which runs and which samples are looked at, by the state.

   a, b, c, d       run keys; without any of them the first two runs of the data set
   dataset, task    names
   verdict          one of explorer.verdicts; "right" and "wrong" are about A
   iou              "low-high", of A's box
   q                words, all of which are in the question, the target or an answer */
(() => {
  const {state} = explorer, letters = ["a", "b", "c", "d"];

  const verdicts = {
    right: ["A right", ([a]) => a === true],
    wrong: ["A wrong", ([a]) => a === false],
    a_right_b_wrong: ["A right, B wrong", ([a, b]) => a === true && b === false],
    a_wrong_b_right: ["A wrong, B right", ([a, b]) => a === false && b === true],
    both_right: ["A and B right", ([a, b]) => a === true && b === true],
    both_wrong: ["A and B wrong", ([a, b]) => a === false && b === false],
    failed: ["A failed", (_, [a]) => Boolean(a && a.failed)],
  };

  function chosenSet(index) {
    const first = index.runs.find((run) => letters.some((letter) => state.get(letter) === run.key));
    const named = index.sets.findIndex((set) => set.name === state.get("dataset"));
    return first ? first.set : Math.max(named, 0);
  }

  /* {letter: run} of the runs that are chosen, in the order of letters. */
  function chosenRuns(index) {
    const offered = index.runs.filter((run) => run.set === chosenSet(index));
    if (!letters.some((letter) => state.get(letter))) {
      return Object.fromEntries(offered.slice(0, 2).map((run, place) => [letters[place], run]));
    }
    const pairs = letters.map((letter) => [letter, offered.find((run) => run.key === state.get(letter))]);
    return Object.fromEntries(pairs.filter(([, run]) => run));
  }

  /* true, false, or null where there is no answer. */
  function rightness(answer) {
    return answer && !answer.failed ? answer.right : null;
  }

  function textOf(sample) {
    const answers = Object.values(sample.answers).map((answer) => answer.text ?? "");
    return [sample.id, sample.question, sample.target, ...answers].join("\n").toLowerCase();
  }

  function inRange(value, range) {
    const [low, high] = range.split("-").map(Number);
    return value !== undefined && value >= (low || 0) && value <= (Number.isFinite(high) ? high : 1);
  }

  /* The samples that the filters leave, in order. */
  function chosenSamples(index) {
    const runs = chosenRuns(index), set = chosenSet(index), task = state.get("task"), range = state.get("iou");
    const verdict = verdicts[state.get("verdict")], words = state.get("q").toLowerCase().split(/\s+/).filter(Boolean);
    return index.samples.filter((sample) => {
      if (sample.set !== set || (task && sample.task !== task)) return false;
      const answers = ["a", "b"].map((letter) => runs[letter] && sample.answers[runs[letter].key]);
      if (verdict && !verdict[1](answers.map(rightness), answers)) return false;
      if (range && !inRange(answers[0]?.iou, range)) return false;
      return !words.length || words.every((word) => textOf(sample).includes(word));
    });
  }

  Object.assign(explorer, {letters, verdicts, chosenSet, chosenRuns, chosenSamples, rightness});
})();
