// The interactive parts of a lesson's page. The exporter replaces the next line by player.js.
"PLAYER";

// A player: the page is another host of the widget's code, with a constant state.
for (const place of document.querySelectorAll(".lesson-player")) {
  const state = JSON.parse(place.querySelector("script").textContent);
  render({ model: { get: (name) => state[name], on() {}, off() {} }, el: place });
}

// A figure. Without plotly.min.js beside the page, its static picture stays.
const darkness = matchMedia("(prefers-color-scheme: dark)");
for (const place of globalThis.Plotly ? document.querySelectorAll(".lesson-figure") : []) {
  const { data, layout } = JSON.parse(place.querySelector("script").textContent);
  const paper = make("div");
  place.append(paper);
  const draw = () => {
    const template = darkness.matches ? "DARK" : layout.template;
    Plotly.react(paper, data, { ...layout, template }, { responsive: true, displaylogo: false });
  };
  darkness.addEventListener("change", draw);
  draw();
}
