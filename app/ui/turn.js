// Says a visitor's place in the queue and the seconds until their turn, in words, wherever the page is scrolled to, and
// to a screen reader.
// It also says which language the page is in: a screen reader reads it out in that one.
// Gradio writes "queue: 4/30 | 2.9/31.0s" into the status line of the run that waits, the seconds so far and those of
// the turn; this reads it there.
{
  const { place: sentence, soon, language } = diffuaprielWords;
  const line = document.createElement("div");
  line.id = "da-turn";
  line.setAttribute("role", "status");

  const waiting = () => {
    for (const text of document.querySelectorAll(".da-status .progress-text")) {
      const found = /queue: (\d+)\/(\d+)(?:.*?([\d.]+)\/([\d.]+)s)?/s.exec(text.textContent);
      if (!found) continue;
      const left = Math.max(0, Number(found[4]) - Number(found[3])) || 0;
      return { place: found[1], size: found[2], seconds: found[4] && 5 * Math.ceil((left + 0.1) / 5) };
    }
    return null;
  };

  const say = () => {
    const place = waiting();
    const whole = place?.seconds ? `${sentence} ${soon}` : sentence;
    const words = place ? whole.replace(/\{(\w+)\}/g, (_, name) => place[name]) : "";
    if (line.textContent !== words) line.textContent = words; // a screen reader hears a change once
  };

  // What the teacher says to all, above the page.
  const notice = document.createElement("div");
  notice.id = "da-notice";
  notice.setAttribute("role", "status");
  const ask = async () => {
    const answer = await fetch("notice").catch(() => null); // the app has ended, or a login is missing
    const text = answer?.ok ? (await answer.json()).message : "";
    if (notice.textContent !== text) notice.textContent = text;
  };

  const begin = () => {
    document.documentElement.lang = language;
    document.body.append(line);
    document.body.prepend(notice);
    setInterval(say, 400);
    if (window.gradio_config?.auth_required !== true) ask(), setInterval(ask, 5000);
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
  else begin(); // Gradio adds what belongs into the head when the page is there
}
