"""What the tab's buttons do: get a branch, load it, verify, repair, remove. Pages come and go; this stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from branchfit import installed as on_disk
from branchfit.download import Installed
from branchfit.download.unfinished import Unfinished
from branchfit.errors import BranchFitError, DownloadError, HubError, LoadError, UsageError
from branchfit.gather import Gathered
from branchfit.gpus import detect
from branchfit.units import gb, gib

from . import loading
from .advice import Advice, Desk, Wishes, counting
from .downloads import Downloads
from .host import Host
from .jobs import LINE, MODEL, Job, Jobs

if TYPE_CHECKING:
    from branchfit.hub import BranchState

    from .lock import Lock

SHARED_PAGE = (
    "This webui runs with --multi-user, where visitors may not change its models: look here, and get or load "
    "models in a terminal (branchfit pull) or from a start without that flag."
)


class Office:
    """One for each webui. Its methods answer at once; what takes time becomes a job."""

    def __init__(self, host: Host, lock: Callable[[], Lock | None]) -> None:
        self.host = host
        self.desk = Desk(host)
        self.jobs = Jobs()
        self.downloads = Downloads(lambda: self.models_dir)
        self._lock = lock

    @property
    def models_dir(self) -> Path:
        return self.host.model_folder("")

    def closed(self) -> str:
        """Why nothing may be changed from a page, '' where it may."""
        return SHARED_PAGE if getattr(self.host.args, "multi_user", False) else ""

    def _open(self) -> None:
        if self.closed():
            raise UsageError(self.closed())

    # Get and load

    def get(self, advice: Advice, branch: str | None, wishes: Wishes, load: bool, anyway: bool) -> str:
        """Start the download of a branch, and its load after it. Raises UsageError where that makes no sense."""
        self._open()
        if not branch:
            raise UsageError("choose a branch first.")
        assessment = advice.of(branch)
        if assessment is None:
            raise UsageError(f"{advice.repo} has no branch {branch!r}: choose one of {', '.join(advice.branches)}.")
        if load and not assessment.fits and not anyway:
            raise LoadError(
                f"{branch} would not load: {assessment.why.rstrip('.')}. Download it only, choose another branch, or "
                f"tick the box to load it all the same."
            )
        wanted = self.downloads.wanted(advice, branch)
        self.downloads.line_up(wanted)

        def work(job: Job) -> str:
            model = self.downloads.get(job, wanted)
            if not load:
                return f"downloaded and verified, {gb(model.size_bytes)}. It stands under Models on disk."
            return self._load(job, model, wishes, anyway)

        return self._start(wanted.name, wanted.name, work)

    # Its downloads

    def can(self) -> tuple[bool, bool, bool]:
        """Whether there is a download here to pause, one to let go on, and one that could be put first."""
        found = self.downloads.under_way() if self.jobs.alive() and not self.closed() else []
        states = [one.state for one in found]
        return any(state != "paused" for state in states), "paused" in states, "waiting" in states and len(states) > 1

    def queued(self, act: Callable[[Downloads], str]) -> str:
        """Pause the downloads, let them go on, or put one first. '' where the board says the rest."""
        self._open()
        return act(self.downloads)

    # Load

    def load(self, name: str | None, wishes: Wishes, anyway: bool) -> str:
        """Start the load of a model on disk."""
        self._open()
        model = self.model(name)
        return self._start(f"load {model.name}", model.name, lambda job: self._load(job, model, wishes, anyway))

    def _load(self, job: Job, model: Installed, wishes: Wishes, anyway: bool) -> str:
        job.say("looking up what it needs")
        found = self._known(model, job)  # before its turn: a Hub that hangs keeps no other load waiting
        with job.turn(MODEL):
            job.say("looking at the memory that is free now")
            machine = detect()
            gives_back = loading.would_free_bytes(self.host, machine)
            wanted = Wishes(wishes.context_tokens, wishes.prefer, count_loaded=True)
            advice = self.desk.answer(found, wanted) if found is not None else None
            assessment = advice.of(model.branch) if advice is not None else None
            if assessment is not None and not assessment.fits and not anyway:
                raise LoadError(f"it is on disk, and was not loaded: {assessment.why}")
            context = wishes.context_tokens or (advice.answer.context_tokens if advice is not None else None)
            plan = loading.plan_load(
                self.host,
                model.folder,
                runtime=assessment.runtime if assessment is not None else model.runtime,
                context_tokens=context,
                gpu_split_bytes=assessment.need.split_bytes if assessment and assessment.need else (),
                machine=counting(machine, gives_back),
                need=assessment.need if assessment is not None else None,
            )
            job.say(f"loading: {plan.reason}")
            try:
                report = loading.load(
                    self.host,
                    plan,
                    need=assessment.need if assessment is not None else None,
                    recommendation=advice.answer if advice is not None else None,
                    on_step=job.show,  # a load cannot be stopped half way ...
                    check=job.check,  # ... only before the present model goes
                )
            except LoadError as error:
                before = self.previous_name()
                if before is None:
                    raise
                raise LoadError(
                    f"{error} {before} was unloaded for it: `Load {before} again` brings it back."
                ) from error
            kept = self._keep_settings(plan)
        locked = self._lock()
        words = [report.line, plan.reason, *report.notes, kept]
        words.append(
            f"Prompt lock {locked.status().sentence}" if locked is not None else "The prompt lock is not running."
        )
        return "\n".join(filter(None, words))

    def _keep_settings(self, plan: loading.LoadPlan) -> str:
        try:
            loading.keep_settings(self.host, plan)
        except (BranchFitError, OSError) as error:
            return f"Its settings hold until the webui ends; they could not be kept: {error}"
        return ""

    def _known(self, model: Installed, job: Job) -> Gathered | None:
        """What is known of a model's repo, for the numbers; None where the Hub cannot say and never did."""
        try:
            return self.desk.known(f"{model.repo}:{model.branch}")
        except HubError as error:
            job.note(f"what it needs is not known: {error}")
            return None

    def previous_name(self) -> str | None:
        """The model that was loaded before the last load, where it is not there now."""
        before = loading.previous(self.host)
        return before.name if before is not None and before.name != self.host.model_name() else None

    def warning(self) -> str:
        """What is wrong with the model that is loaded now, '' for nothing."""
        try:
            return loading.inspect_loaded(self.host)
        except Exception as error:  # noqa: BLE001 - asked at every page: it has to come up
            return f"The loaded model could not be looked at ({type(error).__name__}: {error})."

    def give_back(self) -> str:
        """Start the load of the model that was there before the last one."""
        self._open()
        before = loading.previous(self.host)
        if before is None:
            raise UsageError("no model was loaded before in this start of the webui.")

        def work(job: Job) -> str:
            with job.turn(MODEL):
                job.say("loading it again")
                return f"loaded again. {loading.give_back(self.host).line}"

        return self._start(f"load {before.name}", before.name, work)

    def unload(self) -> str:
        self._open()
        name = self.host.model_name()
        if name is None:
            return "No model is loaded."

        def work(job: Job) -> str:
            with job.turn(MODEL):
                job.say("unloading")
                loading.unload(self.host)
            return "unloaded."

        return self._start(f"load {name}", name, work)

    # The models on disk

    def models(self) -> list[Installed]:
        return on_disk.installed(self.models_dir)

    def unfinished(self) -> list[Unfinished]:
        return self.downloads.unfinished()

    def model(self, name: str | None) -> Installed:
        if not name:
            raise UsageError("choose a model first.")
        return on_disk.find(self.models_dir, name)

    def _at_rest(self, name: str | None) -> Installed:
        """A model that nothing is at work on. Raises UsageError for one that is loaded or that a job has."""
        model = self.model(name)
        if self.host.model_name() == model.name:
            raise UsageError(f"{model.name} is loaded: unload it first.")
        if any(job.alive and job.what in (model.name, f"{model.repo}:{model.branch}") for job in self.jobs.seen()):
            raise UsageError(f"{model.name}: something is under way with it, see above; wait for that or cancel it.")
        return model

    def verify(self, name: str | None) -> str:
        """Start hashing a model's files again."""
        self._open()
        model = self.model(name)

        def work(job: Job) -> str:
            job.say("asking the Hub for its hashes")
            listing, against = self._published(model, job)
            job.say("hashing every file")
            report = on_disk.verify(model, job.tell, listing)
            if report.ok:
                return f"verified: {len(model.files)} files are what {against} says."
            bad = ", ".join([*(each.path for each in report.bad), *(f"{path} (missing)" for path in report.missing)])
            raise DownloadError(f"NOT what was published, by {against}: {bad}. Repair fetches what is bad again.")

        return self._start(f"check {model.name}", model.name, work)

    def _published(self, model: Installed, job: Job) -> tuple[BranchState | None, str]:
        from branchfit.hub import Hub

        try:
            return Hub(timeout_s=5).branch_files(model.repo, model.commit), "the Hub"
        except HubError as error:
            job.note(f"compared with what was recorded at the download: {error}")
            return None, "the record of the download"

    def repair(self, name: str | None) -> str:
        """Start fetching again what is bad or missing of a model."""
        self._open()
        model = self._at_rest(name)

        def work(job: Job) -> str:
            from branchfit.hub import Hub

            with job.turn(LINE):
                job.say("looking for what is bad")
                report = on_disk.repair(Hub(), model, job.tell)
            if not report.ok:
                raise DownloadError(f"not whole: the Hub no longer has {', '.join(report.left)} of this commit.")
            fetched = f": fetched again {', '.join(report.repaired)}" if report.repaired else ", nothing was bad"
            return f"whole{fetched} ({gb(report.fetched_bytes)})."

        return self._start(f"check {model.name}", model.name, work)

    def remove(self, name: str | None) -> str:
        """Delete a model; says how much that gave back. The page has asked before."""
        self._open()
        model = self._at_rest(name)
        freed_bytes = on_disk.remove(model)
        try:
            loading.forget_settings(self.host, model.name)
        except (BranchFitError, OSError) as error:
            return f"Removed {model.name}: {gb(freed_bytes)} freed. Its settings are still kept: {error}"
        return f"Removed {model.name}: {gb(freed_bytes)} freed."

    def discard(self, name: str | None) -> str:
        """Delete what is there of a download that did not end."""
        self._open()
        if not name:
            raise UsageError("choose a download first.")
        going = {one.name: f"{one.repo}:{one.branch}" for one in self.unfinished()}.get(name)
        if going is None:
            raise UsageError(f"there is no unfinished download {name}.")
        if any(job.alive and job.what == going for job in self.jobs.seen()):
            raise UsageError(f"{going} is being downloaded this moment: cancel that first.")
        return f"Deleted what was there of {name}: {gb(self.downloads.discard(name))} freed."

    def resume(self, name: str | None, wishes: Wishes) -> str:
        """Go on with a download that did not end."""
        self._open()
        one = next((each for each in self.unfinished() if each.name == name), None)
        if one is None:
            raise UsageError("choose a download first.")
        advice = self.desk.answer(self.desk.known(f"{one.repo}:{one.branch}"), wishes)
        return self.get(advice, one.branch, wishes, load=False, anyway=False)

    def cancel(self, key: str | None) -> str:
        """Stop what is going on: the job of that key, or all of them. '' where the board says the rest."""
        self._open()
        alive = [job for job in self.jobs.seen() if job.alive and key in (None, "", job.key)]
        for job in alive:
            self.jobs.cancel(job.key)
        return "" if alive else "Nothing is going on."

    def _start(self, key: str, what: str, work: Callable[[Job], str]) -> str:
        if self.jobs.start(key, what, work):
            return ""
        return f"{what}: already under way, perhaps from another page; it goes on above."

    # What the page says of memory

    def loaded_line(self, advice: Advice) -> str:
        """What of the memory the model loaded now would give back, in a sentence; '' where nothing is loaded."""
        if advice.loaded is None:
            return ""
        if not advice.gives_back:
            return f"{advice.loaded} is loaded, and holds no GPU memory."
        parts = " and ".join(f"{gib(size)} on GPU {index}" for index, size in sorted(advice.gives_back.items()))
        counted = "which counts as free below" if advice.counted else "which does not count as free below"
        return f"Unloading {advice.loaded} would give back {parts}, {counted}."
