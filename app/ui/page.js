// The bar at the top of the page: its language, and light or dark. The choices stay in this browser: the language as a
// cookie, from which the server builds the page, the theme in localStorage.
const { words: languages, default: fallback, cookie } = GIVEN;
const chosenLanguage = new RegExp(`(?:^|; )${cookie}=([\\w-]+)`).exec(document.cookie)?.[1];
const diffuaprielWords = languages[chosenLanguage] ?? languages[fallback];
{
  const words = diffuaprielWords;
  const THEME = "diffuapriel-theme";

  /** Storage may be forbidden; then the choice lasts as long as the page. */
  const stored = (value) => {
    try {
      if (value !== undefined) localStorage.setItem(THEME, value);
      return localStorage.getItem(THEME);
    } catch {
      return null;
    }
  };

  const language = document.createElement("select");
  language.setAttribute("aria-label", words.chooseLanguage);
  for (const [code, { name }] of Object.entries(languages)) language.add(new Option(name, code, false, code === words.language));
  language.addEventListener("change", () => {
    document.cookie = `${cookie}=${language.value}; path=/; max-age=31536000; samesite=lax`;
    location.reload(); // keep.js brings back what was typed and run
  });

  const theme = document.createElement("button");
  theme.type = "button";
  const isDark = () => document.body.classList.contains("dark");
  const name = () => { theme.textContent = isDark() ? words.light : words.dark; };
  let chosen = stored();
  const apply = () => {
    if (chosen) document.body.classList.toggle("dark", chosen === "dark");
    name();
  };
  theme.addEventListener("click", () => {
    chosen = isDark() ? "light" : "dark";
    stored(chosen);
    apply();
  });

  const bar = document.createElement("div");
  bar.id = "da-bar";
  bar.append(language, theme);
  const begin = () => {
    const page = document.querySelector(".gradio-container .main");
    if (!page) return void setTimeout(begin, 50);
    page.prepend(bar);
    apply();
    // Gradio follows the system's theme, also after a choice was made here.
    new MutationObserver(() => {
      if (!chosen || isDark() === (chosen === "dark")) name();
      else apply();
    }).observe(document.body, { attributeFilter: ["class"] });
  };
  begin();
}
