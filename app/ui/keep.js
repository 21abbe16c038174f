// What was typed and run survives a reload of the page, also one that changes its language. It stays in this tab
// (sessionStorage), never leaves this machine, and is gone when the tab is closed. A run is brought back as a saved trace:
// as a file for the button that opens one. A link (?tab=...) comes first.
{
  const RUN = "diffuapriel-run"; // a trace as JSON
  const TEXT = "diffuapriel-text"; // typed since that run
  const TAB = "diffuapriel-tab";
  const MOST = 2_000_000; // characters of a trace
  const ready = (find, then, tries = 200) => {
    const found = find();
    if (found) then(found);
    else if (tries) setTimeout(ready, 100, find, then, tries - 1);
  };
  const field = () => document.querySelector("#unmask-text textarea");

  const read = (name) => {
    try {
      return sessionStorage.getItem(name);
    } catch {
      return null;
    }
  };
  const write = (name, value) => {
    try {
      if (value === null || value.length > MOST) sessionStorage.removeItem(name);
      else sessionStorage.setItem(name, value);
    } catch {
      // forbidden or full: nothing is kept
    }
  };

  const restore = () => {
    const [run, text] = [read(RUN), read(TEXT)];
    if (new URLSearchParams(location.search).has("tab")) return;
    if (run) {
      ready(() => document.querySelector("#open-trace")?.parentElement?.querySelector("input[type=file]"), (input) => {
        const files = new DataTransfer();
        files.items.add(new File([run], "kept.json", { type: "application/json" }));
        input.files = files.files;
        input.dispatchEvent(new Event("change", { bubbles: true }));
      });
    } else if (text !== null) {
      ready(field, (box) => {
        if (box.value === text) return;
        box.value = text;
        box.dispatchEvent(new Event("input", { bubbles: true }));
      });
    }
    const tab = read(TAB);
    if (tab) ready(() => document.getElementById(tab), (button) => button.click());
  };

  document.addEventListener("input", (event) => {
    if (!event.isTrusted || event.target !== field()) return;
    write(TEXT, event.target.value);
    write(RUN, null); // the canvas shows the new text
  });
  document.addEventListener("click", (event) => {
    const tab = event.target.closest?.("button[role=tab]");
    if (tab?.id) write(TAB, tab.id);
  });

  // The page says where the file of the run is (app/unmask/export.py).
  window.addEventListener("diffuapriel-saved", async ({ detail: url }) => {
    try {
      write(RUN, await (await fetch(url)).text());
      write(TEXT, null);
    } catch {
      // the file is gone; the run is kept with its next change
    }
  });
  ready(() => field() && document.querySelector("#open-trace"), restore);
}
