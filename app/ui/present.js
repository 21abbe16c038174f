// The presenter view: the canvas over the whole window, for a projector. It is the page's own player, with larger type;
// its controls and keys work as before. The bar above it holds the verdict, and `?` lists the keys.
{
  const words = diffuaprielWords;
  const SIZES = [28, 34, 40, 48, 58, 70]; // pixels
  let size = 2;
  let stage = null; // the element on the screen

  const make = (tag, className, text = "") => {
    const node = document.createElement(tag);
    node.className = className;
    node.textContent = text;
    return node;
  };
  const button = (text, act) => {
    const node = make("button", "da-present-button", text);
    node.type = "button";
    node.addEventListener("click", act);
    return node;
  };

  const verdict = make("div", "da-present-verdict");
  verdict.setAttribute("role", "status");
  const follow = () => {
    const found = document.querySelector("#unmask-status .da-verdicts");
    verdict.replaceChildren(...(found ? [found.cloneNode(true)] : []));
  };
  const watcher = new MutationObserver(follow);

  const list = make("dl", "da-present-keys");
  for (const [key, what] of words.keyList) list.append(make("dt", "", key), make("dd", "", what));
  const help = make("div", "da-present-help");
  help.hidden = true;
  help.append(make("h2", "", words.keys), list);

  const toggleHelp = () => { help.hidden = !help.hidden; };
  const fullScreen = () => {
    if (document.fullscreenElement) document.exitFullscreen();
    else document.documentElement.requestFullscreen?.().catch(() => {});
  };
  const bar = make("div", "da-present-bar");
  bar.append(verdict, button("?", toggleHelp), button(words.fullScreen, fullScreen), button(words.leave, () => leave()));
  bar.querySelector("button").setAttribute("aria-label", words.keys);

  const scale = (by) => {
    size = Math.min(SIZES.length - 1, Math.max(0, size + by));
    stage.style.setProperty("--da-present-size", `${SIZES[size]}px`);
  };

  const present = () => {
    const player = document.querySelector("#unmask-player .da-player");
    if (stage || !player) return;
    stage = player;
    document.documentElement.classList.add("da-presenting");
    stage.classList.add("da-presented");
    stage.prepend(bar, help);
    scale(0);
    follow();
    watcher.observe(document.querySelector("#unmask-status"), { subtree: true, childList: true, characterData: true });
    stage.querySelector(".da-play")?.focus();
  };

  const leave = () => {
    if (!stage) return;
    watcher.disconnect();
    if (document.fullscreenElement) document.exitFullscreen();
    document.documentElement.classList.remove("da-presenting");
    stage.classList.remove("da-presented");
    bar.remove();
    help.remove();
    stage = null;
    document.querySelector("#present")?.focus();
  };

  /** Press a button of the player, if it is there and can be pressed. */
  const press = (...selectors) => {
    for (const selector of selectors) {
      const node = document.querySelector(selector);
      if (!node || node.disabled || node.offsetParent === null) continue;
      node.click();
      return true;
    }
    return false;
  };
  const buttons = ".da-presented .da-buttons";
  const keys = {
    " ": () => press(`${buttons} .da-play`),
    ArrowLeft: () => press(`${buttons} button:nth-child(2)`),
    ArrowRight: () => press(`${buttons} button:nth-child(4)`),
    Home: () => press(`${buttons} button:nth-child(1)`),
    End: () => press(`${buttons} button:nth-child(5)`),
    r: () => press(".da-presented .da-steer button[aria-keyshortcuts=R]") || document.querySelector("#unmask-run:not(:disabled)")?.click(),
    ".": () => press(".da-presented .da-steer button[aria-keyshortcuts='.']"),
    f: fullScreen,
    "+": () => scale(1),
    "-": () => scale(-1),
    "?": toggleHelp,
    Escape: () => (help.hidden ? leave() : toggleHelp()),
  };

  window.addEventListener("keydown", (event) => {
    if (!stage || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest?.("input:not([type=range]), select, .da-card")) return;
    if (event.target.closest?.(".da-token") && !["Escape", "f", "?", "+", "-"].includes(event.key)) return; // the player's own
    const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act || (event.key === " " && event.target.closest?.("button"))) return;
    event.preventDefault();
    event.stopPropagation();
    act();
  }, { capture: true });
  document.addEventListener("click", (event) => event.target.closest?.("#present") && present());
}
