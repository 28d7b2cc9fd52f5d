"""Publishing: an admitted model goes out under signatures, and the campaign says what to record next.

The signed metadata changes first, the fact follows: a crash between the two is repaired by the same call, which
publishes nothing new and then writes the fact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fleetmill.core import canonical
from fleetmill.core.fleet import Campaign
from fleetmill.core.ids import sha256
from fleetmill.core.line import Frame, Line
from fleetmill.core.model import ModelVersion
from fleetmill.core.plain import build, plain
from fleetmill.core.release import Release, io_contract
from fleetmill.core.talk import Limits
from fleetmill.core.verdict import Verdict
from fleetmill.release import golden
from fleetmill.release.trust import Repository
from fleetmill.release.trust_rule import Target, release_custom
from fleetmill.seams.blobs import Blobs
from fleetmill.seams.ledger import Draft, Fact, Ledger
from fleetmill.seams.runtime import Runtime, policies

MEMORY_BYTES = 512 * 1024**2  # that a model may add to a device's process


def champion(ledger: Ledger, line: str) -> Release | None:
    """The release that the fleet is asked to run: the highest counter of the line."""
    return next(reversed(releases(ledger, line)), None)


def releases(ledger: Ledger, line: str) -> list[Release]:
    """Every release of a line, by counter."""
    found = (build(Release, f.record) for f in ledger.read(kind="release"))
    return sorted((r for r in found if r.line == line), key=lambda r: r.counter)


def publish(
    ledger: Ledger,
    blobs: Blobs,
    repository: Repository,
    runtime: Runtime,
    line: Line,
    *,
    model: ModelVersion,
    verdict: Verdict,
    verdict_key: str,
    examples: Frame,
    hardware: Sequence[str],
    campaign: Campaign | None,
    now_ns: int,
    talk: Limits | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> Release:
    """Sign and publish an accepted model, and with it the next campaign, in one metadata version.

    `examples` are input ports with batch axis first: the golden frames that every device must answer alike. `talk` and
    `memory_bytes`: what a device may spend on it, signed with it.
    """
    file = model.files["model.onnx"]
    loaded = policies(line, runtime, {"model.onnx": blobs.get(file)}, what=f"model {model.digest[:12]}")
    frames = golden.golden_npz(examples, loaded.ask)
    release = Release(
        line=line.name,
        counter=_counter(ledger, repository, line, file, verdict_key),
        model=model.digest,
        model_file=file,
        golden=blobs.put(frames),
        dataset=verdict.dataset,
        verdict=verdict_key,
        hardware=tuple(sorted(hardware)),
        io_contract=io_contract(line),
    )
    targets = [*_files(line, release, blobs, talk, memory_bytes), *([_campaign(blobs, campaign)] if campaign else [])]
    repository.publish(targets, now_ns=now_ns, retire=_retired(repository, line, targets))
    drafts = [Draft(kind="release", key=f"{line.name}/{release.counter}", record=plain(release))]
    ledger.append([*drafts, *([_campaign_fact(campaign)] if campaign else [])])
    return release


def ask(ledger: Ledger, blobs: Blobs, repository: Repository, line: Line, campaign: Campaign, *, now_ns: int) -> Fact:
    """Publish a campaign alone: the model in the field stays."""
    target = _campaign(blobs, campaign)
    keep = [t for t in repository.targets().values() if t.path.startswith("models/")]
    repository.publish([target], now_ns=now_ns, retire=_retired(repository, line, [*keep, target]))
    return ledger.append([_campaign_fact(campaign)])[0]


def campaigns(ledger: Ledger, line: str) -> list[tuple[Fact, Campaign]]:
    """Every campaign of a line, by number."""
    found = [(f, build(Campaign, f.record)) for f in ledger.read(kind="campaign")]
    return sorted(((f, c) for f, c in found if c.line == line), key=lambda pair: pair[1].number)


def _counter(ledger: Ledger, repository: Repository, line: Line, file: str, verdict_key: str) -> int:
    """The next release number of the line, or the one that this very release was given before a crash."""
    known = champion(ledger, line.name)
    if known is not None and known.verdict == verdict_key:
        return known.counter
    signed = repository.targets().get(f"models/{file}/model.onnx")
    if signed is not None and signed.custom.get("verdict") == verdict_key:
        return int(signed.custom["release_counter"])
    return max(known.counter if known else 0, repository.counters().get(line.name, 0)) + 1


def _files(line: Line, release: Release, blobs: Blobs, talk: Limits | None, memory_bytes: int) -> list[Target]:
    custom = release_custom(
        line,
        release_counter=release.counter,
        hardware=release.hardware,
        io_contract_sha256=release.io_contract,
        model=release.model,
        golden_sha256=release.golden,
        memory_bytes=memory_bytes,
        talk=talk,
        extra={"dataset": release.dataset, "verdict": release.verdict},
    )
    return [
        _target(blobs, f"models/{release.model_file}/model.onnx", release.model_file, custom),
        _target(blobs, f"models/{release.golden}/golden.npz", release.golden, {}),
    ]


def _target(blobs: Blobs, path: str, digest: str, custom: Mapping[str, Any]) -> Target:
    return Target(path=path, length=blobs.path(digest).stat().st_size, sha256=digest, custom=custom)


def _campaign(blobs: Blobs, campaign: Campaign) -> Target:
    data = canonical.dumps(plain(campaign))
    blobs.put(data)
    return Target(
        path=f"campaigns/{sha256(data)}/campaign.json",
        length=len(data),
        sha256=sha256(data),
        custom={"line": campaign.line, "number": campaign.number},
    )


def _campaign_fact(campaign: Campaign) -> Draft:
    return Draft(kind="campaign", key=f"{campaign.line}/{campaign.number}", record=plain(campaign))


def _retired(repository: Repository, line: Line, wanted: Sequence[Target]) -> list[str]:
    """What this line had published and no longer wants: superseded campaigns, models and their golden frames."""
    published, keep = repository.targets(), {t.path for t in wanted}
    mine = [t for t in published.values() if t.custom.get("line") == line.name]
    golden_frames = {f"models/{t.custom['golden_sha256']}/golden.npz" for t in mine if "golden_sha256" in t.custom}
    return [path for path in sorted({*(t.path for t in mine), *golden_frames}) if path not in keep]
