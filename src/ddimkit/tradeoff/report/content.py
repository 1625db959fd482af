"""What a report says beside its charts and tables; page and Markdown only set it."""

import json
from dataclasses import dataclass

from ddimkit.errors import DDIMKitError
from ddimkit.sampling import PlanSampler
from ddimkit.tradeoff.answer import answer, has_quality
from ddimkit.tradeoff.gap import Gap
from ddimkit.tradeoff.presets import presets_of
from ddimkit.tradeoff.recommend import recommend
from ddimkit.tradeoff.report.samples import drawable
from ddimkit.tradeoff.report.tables import MISSING, facts
from ddimkit.tradeoff.rows import sampler_to_dict, shared_settings
from ddimkit.tradeoff.study import Study
from ddimkit.tradeoff.wording import decimal, with_margin

__all__ = ["Answer", "answer_of", "measured", "missing", "record", "title_of"]

Group = tuple[str, list[tuple[str, ...]]]

_GROUPS = ((True, "The image of a seed is DDIM's, so that more calls refine it"), (False, "Any sampler, with noise added or not"))


@dataclass(frozen=True)
class Answer:
    """What a report says first.

    Attributes:
        headline: the answer in a sentence, or why there is none.
        row: label of the row that it rests on; None where there is no answer.
        facts: what it comes to, a name and a text each.
        reasons: why, a sentence each.
        code: the sampler as Python; empty where it is no class of ours.
        scale: what a share of the gap is.
        heads: of the table of presets.
        presets: the table's groups, a name and rows of texts each.
    """

    headline: str
    row: str | None = None
    facts: tuple[tuple[str, str], ...] = ()
    reasons: tuple[str, ...] = ()
    code: str = ""
    scale: str = ""
    heads: tuple[str, ...] = ()
    presets: tuple[Group, ...] = ()


def answer_of(study: Study) -> Answer:
    """The recommendation and the presets of a study, in words."""
    if not has_quality(study):
        return Answer(answer(study)[0])
    found, gap = recommend(study), Gap(study)
    said = facts(found, study)
    names = {
        "time a sample": "time a sample",
        "speed-up": f"speed-up over {study.baseline}",
        "gap closed": "gap closed (95 % interval)",
        "known": "known to close 95 %",
    }
    shown = tuple((name, said[key]) for key, name in names.items() if key in said)
    scale = (
        f"Gap closed: 0 % is the kernel distance from real images of {gap.zero.label}, 100 % that of {study.baseline}. "
        "A share is known to be closed where the 95 % interval, over all candidates at once, lies above it."
    )
    row = None if found.row is None else found.row.label
    return Answer(found.answer, row, shown, found.reasons, _code(found.sampler), scale, *_presets(study))


def _presets(study: Study) -> tuple[tuple[str, ...], tuple[Group, ...]]:
    """Heads and groups of the table of presets."""
    groups = dict[str, list[dict[str, str]]]()
    for refinable, name in _GROUPS:
        try:
            found = presets_of(study, refinable=refinable)
        except DDIMKitError:  # no row draws DDIM's image of a seed
            continue
        shares = {key: "nearest" if one.share is None else f"{100 * one.share:.0f} %" for key, one in found.items()}
        groups[name] = [{"preset": key, "to close": shares[key], **facts(one, study)} for key, one in found.items()]
    heads = tuple(dict.fromkeys(head for rows in groups.values() for row in rows for head in row))
    return heads, tuple((name, [tuple(row.get(head, MISSING) for head in heads) for row in rows]) for name, rows in groups.items())


def _code(sampler: PlanSampler) -> str:
    """The call that makes a sampler of ours."""
    plain, shared = sampler_to_dict(sampler), shared_settings(sampler)
    if "settings" not in plain:
        return ""
    clip = tuple(shared["clip"]) if isinstance(shared["clip"], list) else sampler.clip
    given = {**plain["settings"], "prediction": shared["prediction"], "clip": clip}
    return f"{plain['class']}(schedule, {', '.join(f'{name}={value!r}' for name, value in given.items())})"


def title_of(study: Study) -> str:
    """The model and the machine."""
    return (
        f"Samplers of {study.model['name']} on {study.machine.get('gpu') or study.machine.get('processor') or 'an unnamed machine'}"
    )


def missing(study: Study) -> str:
    """What the study does not hold, in a sentence; empty where it holds everything."""
    held = {"quality": study.evaluated, "times": any(row.times for row in study.rows), "images": drawable(study)}
    absent = [name for name, there in held.items() if not there]
    return f"This study holds no {' and no '.join(absent)}: what would rest on them is left out." if absent else ""


def measured(study: Study) -> list[str]:
    """How it was measured, as far as it was."""
    settings, threads = study.settings, study.machine.get("threads", "unknown")
    said = [
        f"{title_of(study)}, threads: {threads}. Samples have the shape {'×'.join(map(str, study.model['sample_shape']))}; their "
        f"seeds are the same for every configuration; the precision is {settings.get('dtype', 'float32')}."
    ]
    timed = {row.label: row.times for row in study.rows if row.times is not None}
    if timed:
        said.append(
            f"Times: {settings.get('batch', 'all')} samples are one batch. The calls of all configurations are spread evenly over "
            f"a round ({settings.get('rounds', 1)} in all), so that a change of the machine's pace falls on all alike. A speed-up "
            "is the ratio of two times. Its 95 % interval comes from ten paired stretches."
        )
        share, label = max((times.overhead_seconds / max(times.seconds, 1e-12), label) for label, times in timed.items())
        found = (
            f"is at most {share:.2%} of a run ({label})" if share < 1 else f"is not resolved: {label} took no longer with its own"
        )
        said.append(f"Sampler overhead, with a model that returns a constant, {found}.")
        memory = [times.peak_memory_bytes / 2**20 for times in timed.values() if times.peak_memory_bytes is not None]
        note = next(iter(timed.values())).peak_memory_note
        span = f"{decimal(min(memory), 3)} to {decimal(max(memory), 3)} MiB" if memory else "not known"
        said.append(f"Peak memory beyond the weights is {span} ({note}).")
    return said + _evaluated(study)


def _evaluated(study: Study) -> list[str]:
    label = study.label
    if label is None or not study.evaluated:
        return []
    ends = {"other real images": study.real_vs_real, "noise": study.noise}
    known = " and ".join(f"{name} {with_margin(end.kernel)}" for name, end in ends.items() if end is not None).replace("-", "−")
    sources = dict.fromkeys(row.source.split(";")[0] for row in study.evaluated)
    return [
        f"Quality: the unbiased squared kernel distance (KID) to the {label.images:,} images of {label.reference}, with its 95 % "
        f"interval, through the feature network {label.extractor!r} (SHA-256 {label.extractor_sha256[:12]}…), rounding of pixels: "
        f"{label.rounding}. From: {'; '.join(sources)}." + (f" For comparison: {known}." if known else ""),
        "Same-seed distance: root mean square distance from the images that the finest DDIM draws of the same seeds, as a share of "
        "that between different seeds. Below 0.5 it is the same image.",
    ]


def record(study: Study) -> str:
    """What reproduces the study, as JSON, a sampler a line."""
    names = ("model", "schedule", "shared", "baseline", "machine", "versions", "settings", "label")
    plain = study.to_dict()
    head = {name: plain[name] for name in names} | {"schedule_sha256": study.schedule.sha256}
    rows = ",\n".join(f"  {json.dumps(row.label)}: {json.dumps(sampler_to_dict(row.sampler))}" for row in study.rows)
    return f'{json.dumps(head, indent=1)[:-2]},\n "samplers": {{\n{rows}\n }}\n}}'
