"use strict";
/* What every part of the page shares: data, state, and elements.

   explorer.add(name, value)    data/<name>.js calls it
   explorer.load(name)          a promise of that value; the file is read when it is first asked for
   explorer.state.get(name)     a text, "" where the URL does not say it
   explorer.state.set({name: value}, {push: true})   null or "" forgets it; push makes the Back button return here
   "statechange"                on window, after the URL's hash has changed, with the names that did in event.detail
   explorer.el(tag, attributes, ...children)         texts are only ever text */
window.explorer = (() => {
  const values = new Map(), waiting = new Map();

  function add(name, value) {
    values.set(name, value);
  }

  function load(name) {
    if (!waiting.has(name)) waiting.set(name, values.has(name) ? Promise.resolve(values.get(name)) : read(name));
    return waiting.get(name);
  }

  function read(name) {
    return new Promise((resolve, reject) => {
      const script = el("script", {src: `data/${encodeURIComponent(name)}.js`});
      script.onload = () => resolve(values.get(name));
      script.onerror = () => reject(new Error(`data/${name}.js is missing: nuwa explore has not finished this folder`));
      document.head.append(script);
    });
  }

  function entries() {
    return new URLSearchParams(location.hash.slice(1));
  }

  let before = entries();

  function announce() {
    const now = entries(), names = new Set([...before.keys(), ...now.keys()]);
    const changed = [...names].filter((name) => before.get(name) !== now.get(name));
    before = now;
    if (changed.length) window.dispatchEvent(new CustomEvent("statechange", {detail: changed}));
  }

  const state = {
    get: (name) => entries().get(name) ?? "",
    set(changes, {push = false} = {}) {
      const now = entries();
      for (const [name, value] of Object.entries(changes)) {
        if (value === null || value === undefined || value === "") now.delete(name);
        else now.set(name, value);
      }
      if (now.toString() === entries().toString()) return;
      history[push ? "pushState" : "replaceState"](null, "", `#${now}`);
      announce();
    },
  };
  window.addEventListener("popstate", announce);
  window.addEventListener("hashchange", announce);

  function el(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (typeof value === "function") element.addEventListener(name, value);
      else if (value === true) element.setAttribute(name, "");
      else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  }

  return {add, load, state, el};
})();
