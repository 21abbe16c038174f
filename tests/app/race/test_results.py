"""Results of a visit: kept for that visitor alone, compared, and saved as JSON, CSV and PNG."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from app.race import export, picture
from app.race.live import RacePart
from app.race.outcome import summary
from app.race.results import ResultsPart, comparison, read_numbers
from app.race.store import MOST_RECORDED, MOST_RESULTS, MOST_VISITORS, ResultStore, SavedResult
from app.race.sweep import drawn
from app.server.limits import Limits
from app.strings.language import texts
from diffuapriel.benchmark.generation import race
from diffuapriel.benchmark.memory import refusal
from diffuapriel.benchmark.result import EntryFacts, RaceResult
from diffuapriel.benchmark.sweep import Refusal, SweepResult, sweep
from tests.benchmark.fakes import sleeping_entry

EVIL = "=cmd|'/c calc'!A1"
MATH = r"$\frac{1}{$ <img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def entries() -> list:
    return [
        sleeping_entry("quick", lambda n: 0.0),
        sleeping_entry("slow", lambda n: 0.001, architecture="diffutran"),
        sleeping_entry(MATH, lambda n: 0.0, architecture="diffuapriel-h"),
    ]


@pytest.fixture(scope="module")
def raced(entries) -> RaceResult:
    return race(entries, 8, 2, repeats=1, warmup_steps=1)


@pytest.fixture(scope="module")
def swept(entries) -> SweepResult:
    return sweep(entries, lengths=[8, 16, 32], repeats=1)


@pytest.fixture
def store(raced, swept, entries) -> ResultStore:
    store = ResultStore()
    store.add("me", SavedResult(race=raced))
    store.add("me", SavedResult(sweep=swept, facts=EntryFacts.of(entries)))
    store.add("you", SavedResult(race=raced))
    return store


def test_a_visitor_has_their_own_results_only(store):
    assert [kept.kind for kept in store.of("me")] == ["race", "sweep"]
    assert [kept.number for kept in store.of("you")] == [1]
    assert store.of("nobody") == []
    assert [kept.number for kept in store.of("me", [2, 99])] == [2]
    store.clear("me")
    assert store.of("me") == [] and len(store) == 1


def test_nothing_is_kept_of_a_caller_without_a_session(raced):
    store = ResultStore()
    assert store.add(None, SavedResult(race=raced)).race.order == raced.order
    assert len(store) == 0 and store.of(None) == []


def test_only_figures_are_kept_and_only_so_many(raced):
    store = ResultStore()
    for _ in range(MOST_RESULTS + 3):
        store.add("me", SavedResult(race=raced))
    kept = store.of("me")
    assert [one.number for one in kept] == list(range(4, MOST_RESULTS + 4))
    assert all(entry.trace is None for one in kept for entry in one.race.entries)
    for visitor in range(MOST_VISITORS + 5):
        store.add(f"visitor {visitor}", SavedResult(race=raced))
    assert len(store) == MOST_VISITORS
    assert store.of("me") == []


def test_json_holds_the_results_whole_and_what_was_fair(store, raced, swept, entries):
    with export.exported(store.of("me")) as (json_file, _, _):
        values = json.loads(Path(json_file).read_text(encoding="utf-8"))
    assert (values["schema"], values["version"]) == ("diffuapriel-results", 1)
    first, second = values["results"]
    assert RaceResult.from_dict(first["result"]).order == raced.order
    assert SweepResult.from_dict(second["result"]) == swept
    assert first["fairness"] == raced.fairness()
    assert [entry["architecture"] for entry in second["facts"]] == [entry.architecture for entry in entries]
    assert first["measured"].endswith("+00:00")


def test_times_are_compared_at_one_length_only(raced, entries):
    short, long = (race(entries[:1], length, 2, repeats=1, warmup_steps=1) for length in (8, 16))
    store = ResultStore()
    for one in (short, long):
        store.add("me", SavedResult(race=one))
    assert comparison(store.of("me")).count("<td>–</td>") == 2
    store.add("me", SavedResult(race=short))
    assert comparison(store.of("me")).count("<td>–</td>") == 1


def test_saved_results_open_again_with_their_recordings(store, raced, swept):
    part, me = opened(store), SimpleNamespace(session_hash="me")
    with export.exported(store.of("me")) as (json_file, *_):
        status, player, pixels, table, listed, compared, *_ = part.open(json_file, [1], me)
    assert listed["value"] == [1, 3, 4] and "listed" in status and compared == comparison(store.of("me", [1, 3, 4]))
    again = store.of("me", [3, 4])
    assert again[0].race == raced and again[1].sweep == swept
    assert again[0].measured == store.of("me", [1])[0].measured
    for old, new in zip(raced.entries, again[0].race.entries):
        assert [ids.tolist() for ids in new.recording.canvases()] == [list(f.ids) for f in old.trace.frames]
    lanes = json.loads(player["value"])["lanes"]
    assert [lane["label"] for lane in lanes] == [entry.name for entry in raced.entries]
    assert not pixels["visible"] and "tokens" in table


def test_a_file_that_holds_no_results_is_refused_by_name_and_nothing_is_kept(store, tmp_path):
    part, me = opened(store), SimpleNamespace(session_hash="me")
    with export.exported(store.of("me", [1])) as (json_file, *_):
        good = json.loads(Path(json_file).read_text(encoding="utf-8"))

    def refusal(change) -> str:
        values = json.loads(json.dumps(good))
        change(values)
        file = tmp_path / "holiday.json"
        file.write_text(json.dumps(values), encoding="utf-8")
        before = len(store.of("me"))
        status, *_ = part.open(str(file), [], me)
        assert "da-bad" in status and "holiday.json" in status and len(store.of("me")) == before
        return status

    def first(values):
        return values["results"][0]

    assert "schema" in refusal(lambda v: v.update(schema="diffuapriel-trace"))
    assert "measured" in refusal(lambda v: first(v).pop("measured"))
    assert "kind is" in refusal(lambda v: first(v).update(kind="photo"))
    assert "must be of type float" in refusal(lambda v: first(v)["result"]["entries"][0].update(seconds="<img>"))
    assert "positions" in refusal(lambda v: first(v)["recordings"][0].update(positions="AAAA"))
    assert "another length" in refusal(lambda v: first(v)["recordings"][0].update(length=7_000))
    refusal(lambda v: first(v)["result"].update(entries=[]))
    refusal(lambda v: v.update(results=[7]))
    assert "there is no file" in part.open(None, [], me)[0]


def test_a_file_that_holds_no_results_is_refused_in_german_on_the_german_page(store, tmp_path):
    file = tmp_path / "holiday.json"
    file.write_text("{}", encoding="utf-8")
    with texts.speaking("de"):
        status, *_ = opened(store).open(str(file), [], SimpleNamespace(session_hash="me"))
    assert "holiday.json lässt sich nicht als Ergebnis eines Rennens öffnen</div>" in status


def test_a_sweep_is_summed_up_in_german_on_the_german_page(swept, entries):
    why = refusal(9e15, "cpu", "slow at 2,048 tokens")
    result = dataclasses.replace(swept, refusals=(Refusal("slow", 2048, why),))
    saved = SavedResult(sweep=result, facts=EntryFacts.of(entries))
    english = summary(saved)
    with texts.speaking("de"):
        german = summary(saved)
    assert len(german) == len(english) and not set(german) & set(english)
    assert any(line.startswith("quick gegen slow: ") for line in german)
    assert any(line.startswith("slow gewinnt gegen quick bei ") for line in german)
    assert german[-1].startswith("Nicht gelaufen: slow braucht bei 2.048 Tokens etwa")


def test_only_the_newest_races_of_all_visitors_keep_their_recording(raced):
    store = ResultStore()
    for visitor in range(MOST_RECORDED + 2):
        store.add(f"visitor {visitor}", SavedResult(race=raced))
    kept = [store.of(f"visitor {visitor}")[0].race for visitor in range(MOST_RECORDED + 2)]
    assert [one.entries[0].recording is not None for one in kept] == [False] * 2 + [True] * MOST_RECORDED


def opened(store) -> ResultsPart:
    part = ResultsPart(store, Limits())
    part.race = RacePart(SimpleNamespace(everything=[]), Limits(), store)
    return part


def test_csv_has_a_row_for_each_lane_and_point(store, swept):
    rows = list(csv.DictReader(io.StringIO(export.to_csv(store.of("me")))))
    assert len(rows) == 3 + 9
    assert rows[0]["entry"] == "quick" and float(rows[0]["ms"]) > 0 and rows[0]["steps"] == "2"
    point = next(p for p in swept.points if p.entry == "slow" and p.length == 16)
    (row,) = [r for r in rows if r["kind"] == "sweep" and r["entry"] == "slow" and r["length"] == "16"]
    assert float(row["tokens_per_second"]) == pytest.approx(point.tokens_per_second)
    assert row["architecture"] == "diffutran" and row["steps"] == ""


def test_a_spreadsheet_computes_nothing_of_a_name():
    assert export.harmless(EVIL).startswith("'=")
    assert export.harmless(-1.5) == -1.5


def test_the_picture_is_a_png_whatever_the_names_are(store):
    from PIL import Image

    with export.exported(store.of("me")) as (*_, png_file), Image.open(png_file) as picture:
        assert picture.format == "PNG"
        assert picture.width == 1650
        both = picture.height
    with export.exported(store.of("me", [1])) as (*_, png_file), Image.open(png_file) as picture:
        assert picture.height < both
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 50  # something is drawn


def test_the_picture_is_in_german_on_the_german_page(store, swept, entries, monkeypatch, tmp_path):
    from matplotlib.text import Text

    def drawn_texts() -> set[str]:
        figures = []
        monkeypatch.setattr(picture, "to_png", lambda figure: figures.append(figure) or b"")
        picture.draw(store.of("me"), tmp_path / "results.png")
        return {line for text in figures[0].findobj(Text) for line in text.get_text().splitlines()}

    thousandfold = [dataclasses.replace(p, tokens_per_second=1234.5) for p in swept.points]
    fast = dataclasses.replace(swept, points=tuple(thousandfold))
    store.add("me", SavedResult(sweep=fast, facts=EntryFacts.of(entries)))
    english = drawn_texts()
    with texts.speaking("de"):
        german = drawn_texts()
    same = {line for line in english & german if re.search("[a-z]{3}", line) and MATH[-10:] not in line}
    assert same <= {"quick", "slow", MATH[:22]}
    assert {"1.000", "ms je Schritt, vom schnellsten zum langsamsten Lauf"} <= german
    assert not any(re.match(r"\d\.\d\b|[1-9]\d*,\d{3}\b", line) for line in german)
    assert any(line.startswith("Parameter: quick 1.000, slow 1.000, ") for line in german)


def test_the_comparison_has_a_row_for_each_lane_against_the_first_and_escapes_names(store):
    page = comparison(store.of("me"))
    assert page.count('<th scope="row">') == 6
    assert "1.00×" in page and "Race 1" in page and "Sweep 2" in page
    assert "time against the fastest" in page
    assert "<img" not in page
    assert "forward pass at their longest length" in page
    assert "forward pass at their longest length" not in comparison(store.of("me", [1]))


def test_the_comparison_writes_german_numbers_on_the_german_page(raced):
    long = dataclasses.replace(raced, length=2048)
    with texts.speaking("de"):
        page = comparison([SavedResult(1, race=long)])
    assert page.count("<td>2.048</td>") == 3 and "2,048" not in page
    assert "1,00×" in page and not re.search(r"\d\.\d+×", page)


def test_charts_write_german_numbers_on_the_german_page(swept, entries):
    points = tuple(dataclasses.replace(point, length=128 * point.length) for point in swept.points)
    long = SavedResult(sweep=dataclasses.replace(swept, points=points), facts=EntryFacts.of(entries))
    store, me = ResultStore(), SimpleNamespace(session_hash="me")
    with texts.speaking("de"):
        latency, rate, ratio = drawn(long)
        for _ in range(2):
            store.add("me", long)
        ((_, *compared, _, _, _, _),) = ResultsPart(store, Limits()).compare([1, 2], me)
    for figure in (latency, rate, ratio["value"], *compared):
        assert figure.layout.separators == ",."
        assert list(figure.layout.xaxis.ticktext) == ["1.024", "2.048", "4.096"]
    assert drawn(long)[0].layout.xaxis.ticktext[0] == "1,024"


def test_after_a_run_the_newest_is_chosen_too(store):
    part, me = ResultsPart(store, Limits()), SimpleNamespace(session_hash="me")
    assert part.listed([], me)[0]["value"] == [2]
    both, table, *files = part.listed([1], me)
    assert both["value"] == [1, 2] and table == comparison(store.of("me"))
    assert not any(file["visible"] for file in files)  # those of another choice
    assert [number for _, number in part.listed(None, me)[0]["choices"]] == [1, 2]
    nothing, table, *_ = part.clear(me)
    assert nothing["choices"] == [] and texts.RESULTS_NONE in table


def test_comparing_offers_three_files_and_charts_of_several_sweeps(store, swept, entries):
    part, me = ResultsPart(store, Limits()), SimpleNamespace(session_hash="me")
    ((table, latency, rate, *files, _),) = part.compare([1, 2], me)
    assert "Race 1" in table and latency is None and rate is None  # one sweep is drawn above
    assert [file["value"].rsplit(".", 1)[1] for file in files] == ["json", "csv", "png"]
    store.add("me", SavedResult(sweep=swept, facts=EntryFacts.of(entries)))
    ((_, latency, rate, *_),) = part.compare([2, 3], me)
    assert [trace.name.split(" (slope")[0] for trace in latency.data] == [
        f"{n}. {entry}" for n in (2, 3) for entry in swept.entries
    ]
    assert {trace.line.dash for trace in rate.data} == {"solid", "dash"}
    ((note, *_, forget),) = part.compare([], me)
    assert "No result is chosen" in note and forget["visible"]


@pytest.mark.parametrize("chosen", ["1", {"a": 1}, [1.5], [None], ["<img>"], [1] * 13, [float("nan")], [10**30]])
def test_a_bad_choice_is_refused(chosen):
    with pytest.raises(ValueError, match=r"choice|a result"):
        read_numbers(chosen)


def test_a_title_says_what_it_was(raced):
    assert SavedResult(3, race=raced).title.startswith("Race 3, 8 tokens × 2 steps: quick ")


def test_the_bundled_race_is_what_its_button_says_and_is_listed(tmp_path, monkeypatch) -> None:
    """Mamba ahead of attention at 65,536 tokens; sampler, head and frames at most a tenth of every lane's time."""
    results = ResultsPart(ResultStore(), Limits())
    results.race = RacePart(SimpleNamespace(), Limits(), results.store)
    status, player, pictures, table, choice, *_ = results.watch(None, SimpleNamespace(session_hash="me"))
    assert "bad" not in status and choice["value"] == [1]
    (kept,) = results.store.of("me")
    entries = kept.race.entries
    said = (f"{kept.race.length:,} tokens", "1.3b", kept.race.machine)
    assert all(part in texts.RACE_WATCH for part in said) and all("1.3b" in entry.name for entry in entries)
    assert [entry.architecture for entry in entries] == ["diffuapriel", "diffutran", "diffuapriel-h"]
    assert "At 65,536 tokens Mamba wins: the hybrid takes 1.6 times as long, attention 5.0 times." in table
    assert all(entry.denoiser_share >= 0.9 for entry in entries)
    recordings = [entry.recording for entry in entries if entry.recording]
    assert [len(one.counts) for one in recordings] == [kept.race.steps + 1] * 3
    assert all(sum(one.counts) == one.length == 65_536 for one in recordings)
    assert pictures["visible"] and not player["visible"]
    seconds = [f"{entry.seconds:.1f} s for" for entry in (entries[0], entries[2], entries[1])]
    readme = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8").replace("\n", " ")
    assert re.search(".*".join([f"65,536 tokens in {kept.race.steps} steps on one H200", *seconds]), readme)
