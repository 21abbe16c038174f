// What moves on the page of a lesson. The exporter puts player.js in the place of the next line.
"PLAYER";

// A player: the page is one more host of the widget's own code, with a state that nobody changes.
for (const place of document.querySelectorAll(".lesson-player")) {
  const state = JSON.parse(place.querySelector("script").textContent);
  render({ model: { get: (name) => state[name], on() {}, off() {} }, el: place });
}

// A figure. Without plotly.min.js beside the page its plain picture stays.
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
