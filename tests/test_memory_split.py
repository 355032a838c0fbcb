"""Models split over two cards: what is told to whom, how both cards are recorded, and what the page says of it."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from branchfit.errors import LoadError
from branchfit.loaders import Host as Packages
from branchfit.memory import place
from branchfit.memory.correcting import on_cards
from branchfit.memory.splits import LoaderSplit
from branchfit_webui.loading.sharing import shared_out

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "benchmarks"))

import memory_split  # noqa: E402 (benchmarks are found only now)
from memory.cases import V2, measured_bytes, variant_of  # noqa: E402
from memory.page import page  # noqa: E402
from memory.split import CARDS, SPLITS, Split, finished, placed  # noqa: E402
from memory.table import compare, predicted, read, trials  # noqa: E402
from memory.two_cards import over_two_cards, said  # noqa: E402

MIB, GIB = 2**20, 2**30
FILE = ROOT / "benchmarks" / "memory" / "h200-x2.jsonl"
RECORDS = read([FILE])
ENVIRONMENT = RECORDS[0]
MEASURED = [record for record in RECORDS if record["kind"] == "split"]
LIMITED = [record for record in RECORDS if record["kind"] == "split_limit"]

Record = dict[str, Any]


def packages(**versions: str) -> Packages:
    return Packages(versions.__contains__, versions.get, None, "linux", (3, 12))


THEN = packages(**ENVIRONMENT["packages"])
"""What was installed where the records are from."""


def a_load(less_mib: tuple[float, float] = (0, 0), layers: tuple[int, int] = (12, 20), **fields: Any) -> Record:
    """A load that took what is predicted, less these MiB on each card."""
    record = {"kind": "split", "gpu": "a GPU", "runtime": V2, "switches": [], "cache": "fp16", "context": 4096}
    record |= {"shape": "mistral-7b", "branch": "main", "how": "gpu_split", "outcome": "ran", "where": None, **fields}
    taken = [need - int(less * MIB) for (need, _), less in zip(said(record, layers), less_mib, strict=True)]
    cards = [{"context_bytes": GIB, "measured_bytes": got} for got in taken]
    return {**record, "layers_said": list(layers), "layers_placed": list(layers), "cards": cards}


def a_limit(load: Record, limit: str, outcome: str, over_bytes: tuple[int, int] = (0, 0)) -> Record:
    """The load with so much more than need and error allowed on each card."""
    needs = said(load, load["layers_placed"])
    allowed = [need + error - GIB + over for (need, error), over in zip(needs, over_bytes, strict=True)]
    more = {"limit": limit, "allowed_bytes": allowed, "outcome": outcome, "where": "prefill"}
    return {**load, "kind": "split_limit", **more}


def section(*records: Record) -> str:
    return "\n\n".join(over_two_cards([ENVIRONMENT, *records]))


def rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def cards_of(record: Record) -> list[tuple[Record, tuple[int, int]]]:
    return list(zip(record["cards"], said(record, record["layers_placed"]), strict=True))


@pytest.mark.parametrize("split", SPLITS, ids=lambda split: split.name.replace(" ", "-"))
def test_each_card_is_too_small_alone_and_both_have_room(split: Split) -> None:
    first, second = split.free_bytes
    for free in (first, second):
        alone = place(split.terms, [free])
        assert alone.headroom_bytes((free,)) < 0
    assert abs(first - second) > GIB / 2
    assert all(split.need.layers_per_gpu) and sum(split.need.layers_per_gpu) == split.terms.layers
    assert split.need.headroom_bytes((first, second)) >= 0


def test_branchfits_own_map_has_each_layer_where_it_was_planned() -> None:
    split = SPLITS[0]
    told, layers = split.told(packages())
    assert layers == split.need.layers_per_gpu == (24, 16)
    assert [told[f"model.layers.{layer}"] for layer in range(40)] == [0] * 24 + [1] * 16
    assert (told["model.embed_tokens"], told["model.norm"], told["lm_head"]) == (0, 1, 1)


def test_accelerate_is_said_to_balance_as_the_installed_transformers_does() -> None:
    split = SPLITS[1]
    assert split.need.layers_per_gpu == (24, 16)
    told, layers = split.told(packages(transformers="5.17.0"))
    assert layers == (19, 21) and set(told) == {0, 1, "cpu"} and told[0].endswith("GiB")
    with pytest.raises(LoadError, match="GPU 1 would need"):
        shared_out(LoaderSplit((), layers), split.need, split.machine, "Transformers")
    # From 5.18 on its buffer is as large as the embedding.
    assert split.told(packages(transformers="5.18.0"))[1] == (20, 20)


def test_exllamav2_is_told_gigabytes_and_less_with_flash_attention() -> None:
    split = SPLITS[4]
    plain, layers = split.told(packages())
    flash, same = split.told(packages(flash_attn="2.5.9"))
    assert layers == same == split.need.layers_per_gpu == (17, 23)
    assert 0 < plain[0] - flash[0] < 1 and plain[0] * GIB < split.free_bytes[0]


def test_what_is_told_today_is_what_was_told_when_it_was_measured() -> None:
    now = {split.name: json.loads(json.dumps(split.record(THEN))) for split in SPLITS}
    for record in MEASURED:
        name = " ".join(str(record[field]) for field in ("how", "runtime", "shape", "branch", "cache", "context"))
        assert {field: record[field] for field in now[name]} == now.pop(name)
    assert not now


def test_layers_are_counted_where_they_lie_and_half_where_they_are_torn() -> None:
    halves = [SimpleNamespace(device_idx=card) for card in (0, 0, 0, 1, 1, 1)]
    ends = [SimpleNamespace(device_idx=card) for card in (-1, 1, 1)]
    model = SimpleNamespace(modules=[ends[0], *halves, *ends[1:]])
    assert placed("gpu_split", model) == {"layers_placed": [1.5, 1.5], "ends_placed": [-1, 1]}

    def module(*cards: int) -> Any:
        tensors = [SimpleNamespace(device=SimpleNamespace(index=card)) for card in cards]
        return SimpleNamespace(parameters=lambda: tensors[:1], buffers=lambda: tensors[1:])

    layers = [SimpleNamespace(self_attn=module(card, card), mlp=module(card)) for card in (0, 1, 1)]
    inner = SimpleNamespace(embed_tokens=module(0), layers=layers)
    model = SimpleNamespace(model=inner, lm_head=module(1))
    assert placed("device_map", model) == {"layers_placed": [1, 2], "ends_placed": [0, 1]}


def test_a_load_is_recorded_card_by_card_with_the_rules_for_one() -> None:
    def stage(peak: int) -> list[Record]:
        both = []
        for card in CARDS:
            held = {"allocated": 10, "reserved": 16, "peak_allocated": peak + card, "peak_reserved": 90}
            both.append({**held, "driver": 16 + 7 + card})
        return both

    case = {"runtime": V2, "switches": [], "shape": "mistral-7b"}
    done = finished({**case, "load": stage(20), "prefill": stage(50), "decode": stage(40)}, "cuda:0", 0.0)
    assert done["outcome"] == "ran" and "load" not in done
    # The context is what the driver has beyond what is reserved; six bytes of gaps stay in ExLlamaV2.
    assert [one["context_bytes"] for one in done["cards"]] == [7, 8]
    assert [one["measured_bytes"] for one in done["cards"]] == [7 + 50 + 6, 8 + 51 + 6]
    died = finished({**case, "load": stage(20), "outcome": "died", "where": "prefill"}, "cuda:0", 0.0)
    assert (died["outcome"], died["where"]) == ("died", "prefill")
    assert all("measured_bytes" not in one and one["load"] for one in died["cards"])


def test_limits_are_of_what_was_measured_and_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert memory_split.wanted(out, None, False) == [(index, {}) for index in range(len(SPLITS))]
    assert memory_split.wanted(out, None, True) == []
    load = {name: value for name, value in MEASURED[-1].items() if name not in ("gpu", "version")}  # as in the file
    (index,) = [at for at, one in enumerate(SPLITS) if (one.case.shape, one.how) == (load["shape"], load["how"])]
    out.write_text("".join(json.dumps(one) + "\n" for one in (ENVIRONMENT, load)), encoding="utf-8")
    assert [at for at, _ in memory_split.wanted(out, None, False)] == [at for at in range(len(SPLITS)) if at != index]
    (_, enough), (_, too_little) = memory_split.wanted(out, None, True)
    for card, (one, (need, error)) in enumerate(cards_of(load)):
        assert enough["allowed_bytes"][card] == need + error - one["context_bytes"]
        most = max(one[stage]["peak_allocated"] for stage in ("load", "prefill", "decode"))
        assert too_little["allowed_bytes"][card] == int(0.97 * most)
    with out.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**load, **enough, "outcome": "died"}) + "\n")
    assert memory_split.wanted(out, None, True) == [(index, too_little)]
    assert memory_split.wanted(out, [index + 2], True) == []


def test_a_card_out_of_the_target_is_bold_and_counted() -> None:
    # 1 % of these cards is less than 150 MiB.
    text = section(a_load((151, -149)), a_load((-10, 0), shape="llama-2-13b", layers=(15, 25)))
    found = rows(text)
    assert [(row[1], row[6], row[11]) for row in found] == [
        ("llama-2-13b", "0", "-10"),
        ("llama-2-13b", "1", "+0"),
        ("mistral-7b", "0", "**+151**"),
        ("mistral-7b", "1", "-149"),
    ]
    # 0, 10, 149, 151; what is stated with ExLlamaV2 is 150 MiB.
    assert "Of 4 cards 3 are in the target, 3 within the stated error." in text
    assert "80 MiB in the median, 151 MiB or" in text
    assert "torch's allocator held" not in text


def test_what_is_predicted_is_for_the_layers_that_were_placed() -> None:
    load = a_load(layers=(12, 20))
    load["layers_said"] = [13, 19]
    text = section(load)
    assert [row[7:9] + row[11:] for row in rows(text)] == [["13", "12", "+0"], ["19", "20", "+0"]]
    assert "0 of 1 loads were laid as said" in text
    # A layer more on the first card is one less on the second: the same bytes, since both runs of layers are alike.
    made = predicted(load, variant_of(load))
    (more, _), (less, _) = said(load, (13, 19))
    assert more - load["cards"][0]["measured_bytes"] == made.layer_bytes + made.kv_layer_bytes
    assert load["cards"][1]["measured_bytes"] - less == made.layer_bytes + made.kv_layer_bytes


@pytest.mark.parametrize("split", SPLITS, ids=lambda split: split.name.replace(" ", "-"))
def test_need_and_error_of_the_planned_layers_are_those_of_the_placement(split: Split) -> None:
    need = split.need
    record = {**split.case.record(), "context": split.context}
    expected = tuple(zip(need.per_gpu_bytes, need.error_per_gpu_bytes, strict=True))
    assert said(record, need.layers_per_gpu) == expected


def test_a_load_that_died_though_it_was_said_to_fit_is_named() -> None:
    load, other = a_load(), a_load(context=8192)
    good = [a_limit(load, "enough", "ran"), a_limit(load, "too little", "died", (-1, 0))]
    text = section(load, other, *good)
    assert "error included, 1 of 1 loads ran" in text and "at most, 1 of 1 died" in text
    assert "1 were said to fit and ran, 1 were said not to fit and died, and 0 were said not to fit and ran" in text
    assert text.endswith("Said to fit, and died: none.")
    # One card with a byte too little is enough for a no.
    text = section(load, other, *good, a_limit(other, "enough", "died"), a_limit(other, "too little", "ran", (9, -1)))
    assert "error included, **1 of 2** loads ran" in text and "at most, **1 of 2** died" in text
    assert "1 were said to fit and ran, 1 were said not to fit and died, and 1 were said not to fit and ran" in text
    assert text.endswith("**Said to fit, and died:** exllamav2 mistral-7b `main` 8192 fp16 by `gpu_split` in prefill.")


def test_the_last_of_equal_trials_counts_and_what_failed_otherwise_does_not() -> None:
    load = a_load()
    again = [a_limit(load, "enough", outcome) for outcome in ("died", "ran", "failed")]
    assert "error included, 1 of 1 loads ran" in section(load, *again)
    worse = {**a_load((999, 0)), "outcome": "failed"}
    assert [row[11] for row in rows(section(load, worse))] == ["+0", "+0"]
    assert over_two_cards([ENVIRONMENT, worse, *again]) == []


def test_the_cards_of_the_other_sections_are_named_where_they_are_others() -> None:
    load, here = a_load(), ENVIRONMENT["gpu"]
    cases = [{**load, "kind": "case", "gpu": gpu} for gpu in (here, "a small GPU")]
    assert "another kind of card than that of the other sections (a small GPU)" in section(load, *cases)
    assert "another kind of card" not in section(load, cases[0])


def test_every_card_that_was_measured_is_in_the_target_and_the_stated_error() -> None:
    assert len(MEASURED) == len(SPLITS) == 7
    for record in MEASURED:
        for one, (need, error) in cards_of(record):
            off = abs(need - one["measured_bytes"])
            assert off <= max(0.01 * one["measured_bytes"], 150 * MIB) and off <= error
            assert one["measured_bytes"] == measured_bytes({**record, **one})


def test_the_embedded_prompt_on_both_cards_would_be_too_much() -> None:
    """As the page says. Two bytes of 5120 channels for 2048 tokens, of 8192 for 4096, and of 4096 for 8192."""
    more, missed = set(), []
    for record in MEASURED:
        made = predicted(record, variant_of(record))
        one, (need, _) = cards_of(record)[1]
        before = on_cards(replace(made, embedded_bytes=0), record["layers_placed"])[1]
        more.add((before - need) / MIB)
        if before - one["measured_bytes"] > max(0.01 * one["measured_bytes"], 150 * MIB):
            missed.append(record["shape"])
    assert more == {0, 20, 64} and missed == ["mistral-7b"]


def test_every_layer_that_was_measured_lay_where_it_was_said() -> None:
    for record in MEASURED:
        assert record["layers_placed"] == record["layers_said"]
        # ExLlamaV2 keeps the embedding in the machine's memory.
        assert record["ends_placed"] == ([-1, 1] if record["runtime"] == V2 else [0, 1])


def test_what_was_said_to_be_enough_ran_and_too_little_died() -> None:
    assert [(one["limit"], one["outcome"]) for one in LIMITED] == [("enough", "ran")] * 7 + [("too little", "died")] * 7
    text = section(*MEASURED, *LIMITED)
    assert "7 were said to fit and ran, 7 were said not to fit and died, and 0 were" in text
    assert text.endswith("Said to fit, and died: none.")


def test_the_page_has_the_section_and_its_other_sections_are_undisturbed(tmp_path: Path) -> None:
    assert compare(RECORDS, variant_of, lambda record: False) == [] and trials(RECORDS, variant_of) == []
    text = page([FILE], tmp_path)
    assert "## Over two cards\n\nModels split over two NVIDIA H200 (140.40 GiB each; driver 580.159.04," in text
    assert "another kind of card" not in text  # nothing else is on this page
    assert len(rows(text.split("## Over two cards")[1].split("\n## ")[0])) == 14
    alone = tmp_path / "alone.jsonl"
    alone.write_text("", encoding="utf-8")
    assert "## Over two cards" not in page([alone], tmp_path)


def test_no_record_tells_of_the_machine() -> None:
    text = FILE.read_text(encoding="utf-8")
    assert not any(word in text for word in ("/tmp", "/root", "/home", "GPU-", "rocess", "uuid", "error"))
