// The menu of the Share button: a popover beside it. Escape, a click elsewhere and the button close it.
() => {
  const [menu, button] = ["share-menu", "share"].map((id) => document.getElementById(id));
  if (!menu.popover) {
    menu.popover = "auto";
    menu.addEventListener("toggle", (event) => button.setAttribute("aria-expanded", event.newState === "open"));
  }
  menu.togglePopover({ source: button });
  const [at, size] = [button.getBoundingClientRect(), menu.getBoundingClientRect()];
  menu.style.left = `${Math.max(8, Math.min(at.left, innerWidth - size.width - 8))}px`;
  const below = at.bottom + 8;
  menu.style.top = `${Math.max(8, below + size.height > innerHeight ? at.top - 8 - size.height : below)}px`;
  menu.querySelector("button, a")?.focus();
}
