// Says a visitor's place in the queue, in words, wherever the page is scrolled to, and to a screen reader.
// It also says which language the page is in: a screen reader reads it out in that one.
// Gradio writes "queue: 4/30 | 2.9s" into the status line of the run that waits; this reads it there.
{
  const { place: sentence, language } = WORDS;
  const line = document.createElement("div");
  line.id = "da-turn";
  line.setAttribute("role", "status");

  const waiting = () => {
    for (const text of document.querySelectorAll(".da-status .progress-text")) {
      const found = /queue: (\d+)\/(\d+)/.exec(text.textContent);
      if (found) return { place: found[1], size: found[2] };
    }
    return null;
  };

  const say = () => {
    const place = waiting();
    const words = place ? sentence.replace(/\{(\w+)\}/g, (_, name) => place[name]) : "";
    if (line.textContent !== words) line.textContent = words; // a screen reader hears it once
  };

  const begin = () => {
    document.documentElement.lang = language;
    document.body.append(line);
    setInterval(say, 400);
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
  else begin(); // Gradio adds what belongs into the head when the page is there
}
