"""A single run: train a model on a task with a method, and write its record, model and small arrays."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from filelock import FileLock, Timeout
from safetensors.numpy import save_file
from transformers import Seq2SeqTrainingArguments, Trainer, TrainerCallback, set_seed

from neuroprune import distributed, methods, tasks
from neuroprune.config.canonical import settings_hash
from neuroprune.config.cores import available_cores, crowded
from neuroprune.config.jobs import CHECKPOINTS
from neuroprune.config.settings import RunSettings
from neuroprune.config.training import TrainingSettings
from neuroprune.errors import UserError
from neuroprune.files.atomic import file_hash, whole_file, whole_folder, write_json
from neuroprune.methods.linear_probe import LinearProbe
from neuroprune.models import pretrained, sources
from neuroprune.pruning.defaults import EPS
from neuroprune.pruning.sparsity import measure_sparsity
from neuroprune.results import records
from neuroprune.results.environment import environment as describe_environment
from neuroprune.results.manifests import Prepared, teacher_hash
from neuroprune.training import batches, budget, checkpoints, weight_arrays
from neuroprune.training.answers import Answers
from neuroprune.training.inference_time import use_bf16
from neuroprune.training.step_times import StepClock

log = logging.getLogger(__name__)

ARRAY_BYTES = 975_000  # of a run's arrays: with record, times and logs it keeps less than a megabyte
WORST_LOSS = 30.0  # of a run that has not diverged, as a multiple of the loss of guessing
WORST_LOSS_OF_ONE_CLASS = 5.0  # the same if the model predicts a single class; right or wrong, it is too certain
CODE = ("versions", "commit", "dirty")  # of the environment: checkpoints of other code are not used


def train(
    settings: RunSettings,
    output: Path,
    data_root: Path,
    checkpoint_minutes: float = math.inf,
    made: Prepared | None = None,
    branch: checkpoints.Branch | None = None,
) -> None:
    """Fine-tune one model with one method and write its run folder.

    The record is written last: a folder without a record contains no result. A run whose loss or weights are not
    finite is recorded as diverged, without a metric. An interrupted run resumes from its last checkpoint.

    Args:
        settings: All settings that determine the result.
        output: The record to write, `<run folder>/run.json`; model and arrays are written to the same folder.
        data_root: Folder of the datasets.
        checkpoint_minutes: Time between checkpoints, which are deleted at the end; 0: after every step.
        made: Hashes of the prepared data and model, for the record; checkpoints with other hashes are not used. A run
            with an existing model and a record of these settings and hashes is not repeated.

        branch: Optional copy of a checkpoint for other runs.

    Raises:
        UserError: If another process is writing the same folder, or the data or the model are unavailable.
    """
    processes, folder = settings.training.processes, output.parent
    if distributed.must_start(processes):
        distributed.launch(train, processes, settings, output, data_root, checkpoint_minutes, made, branch)
        return
    with distributed.joined(processes), _only_writer(folder) if distributed.is_main() else nullcontext():
        if distributed.from_main(_is_done, settings, output, made):
            distributed.from_main(checkpoints.delete_checkpoints, folder)
            return
        distributed.from_main(partial(_forget, output))
        with checkpoints.kept_log(folder) if distributed.is_main() else nullcontext():
            record = _run(settings, folder, data_root, checkpoint_minutes, made, branch)
        if record is not None:
            write_json(output, record)
            checkpoints.delete_checkpoints(folder)


def _is_done(settings: RunSettings, output: Path, made: Prepared | None) -> bool:
    """Return whether the run is complete; another process may have finished it before this one got the lock."""
    if made is None or not output.with_name("model").is_dir():
        return False
    try:
        return made.gave(records.read_record(output), settings)
    except UserError:
        return False


def _forget(output: Path) -> None:
    """Delete the record and the times of an earlier model."""
    for path in (output, output.with_name("timing.json")):
        path.unlink(missing_ok=True)


def _run(
    settings: RunSettings,
    folder: Path,
    data_root: Path,
    checkpoint_minutes: float,
    made: Prepared | None,
    branch: checkpoints.Branch | None,
) -> records.RunRecord | None:
    """Train, evaluate and save; return the record in the main process."""
    environment = describe_environment(threads=settings.training.threads)
    _set_up(settings)
    with distributed.main_first():
        data = tasks.load(settings.task, data_root)
    identity = {"settings_sha256": settings_hash(settings), "data_sha256": data.sha256}
    identity |= {} if made is None else {"model_sha256": made.model_sha256}
    identity |= {} if (teacher := teacher_hash(settings)) is None else {"teacher_sha256": teacher}
    progress = distributed.from_main(
        checkpoints.find_progress, folder, identity | {key: environment[key] for key in CODE}
    )
    with distributed.main_first():
        model, tokenizer = sources.load(settings.model, data, seed=settings.seed)
    if progress.checkpoint is not None:
        model = pretrained.from_pretrained(progress.checkpoint)  # with its shapes at the checkpoint
    pretrained.align(model)
    method = methods.build(settings.method)
    trainer = _trainer(settings, folder, data, model, tokenizer, method)
    if settings.training.budget == "dense_flops":
        budget.at_dense_cost(trainer)
    fit = _fit(trainer, checkpoints.Checkpoints(progress, checkpoint_minutes, branch))
    if not distributed.is_main():
        return None
    answers = cast(Answers, trainer.compute_metrics).arrays if fit["metrics"] else {}
    if data.labels and _is_lost(fit["metrics"].get("loss"), model.config, len(data.labels), answers):
        fit, answers = fit | {"status": "diverged", "metrics": {}}, {}
    with whole_folder(folder / "model") as temporary:
        pretrained.save_pretrained(model, temporary, tokenizer, **_card(settings, data, fit["metrics"]))
    result = {
        "metric": settings.task.metric,
        "value": fit["metrics"].get(settings.task.metric),
        "majority": fit["metrics"].get(f"unigram_{settings.task.metric}", data.majority),
        "copied": data.copied if made is None else made.value_of_copying(data),
        "labels": list(data.labels),
        "train_rows": len(data.train),
        "eval_rows": len(data.eval),
        "epochs": settings.training.epochs if settings.training.budget == "epochs" else trainer.state.epoch,
        "sparsity": measure_sparsity(model).as_dict(),
        "method": method.report,
    }
    return records.RunRecord.model_validate(
        {
            "run": settings.run,
            "status": fit.pop("status"),
            "settings": settings,
            "environment": environment | identity,
            "result": result | fit | _save_arrays(model, folder, getattr(settings.method, "eps", EPS), answers),
        }
    )


def _card(settings: RunSettings, data: tasks.Data, metrics: dict[str, float]) -> dict[str, Any]:
    """Return the model card's entries that cannot be derived from the model."""
    source = settings.model.source
    return {
        "metrics": metrics,
        "base_model": Path(source).name if Path(source).is_dir() else source,
        "dataset": settings.task.name if settings.task.source == "demo" else settings.task.source,
        "task": settings.task.name,
        "labels": data.labels,
        "name": settings.run,
    }


def _is_lost(loss: float | None, config: Any, classes: int, answers: dict[str, Any]) -> bool:
    """Return whether a run with finite weights has diverged: its loss is far above that of guessing.

    The limit is lower for a model that predicts the same class for rows of several classes: calibrated, it would have
    the loss of guessing.
    """
    choices = config.vocab_size if config.is_encoder_decoder else classes
    predicted, true = (len(set(answers[name].tolist())) if answers else 0 for name in ("predicted", "true"))
    constant = predicted == 1 < true
    worst = WORST_LOSS_OF_ONE_CLASS if constant else WORST_LOSS
    return loss is not None and choices > 1 and loss > worst * math.log(choices)


class DivergedError(Exception):
    """A loss or a weight is no longer finite."""


class _Watch(TrainerCallback):
    """Callback that stops a run whose loss is not finite."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Check every logged loss: of recent steps, of the whole training (`train_loss`), or of an evaluation."""
        if not all(math.isfinite(logs.get(name, 0.0)) for name in ("loss", "train_loss", "eval_loss")):
            raise DivergedError


def _check_weights(model: Any) -> None:
    """Raise `DivergedError` if a weight is not finite; the last steps are not covered by a logged loss."""
    if not all(bool(torch.isfinite(tensor).all()) for tensor in model.parameters()):
        raise DivergedError


def _fit(trainer: Trainer, kept: checkpoints.Checkpoints) -> dict[str, Any]:
    """Train and evaluate; return status, metrics, steps, times in seconds and the history of losses and metrics."""
    status, metrics, progress = "done", {}, kept.progress
    clock = StepClock(progress.step_seconds)
    trainer.add_callback(_Watch())
    trainer.add_callback(clock)
    trainer.add_callback(kept)
    trainer.evaluate = kept.evaluate(trainer.evaluate)  # type: ignore[method-assign]
    checkpoint = None if progress.checkpoint is None else str(progress.checkpoint)
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
        _check_weights(trainer.model)
        judged = trainer.evaluate()
        metrics = {key.removeprefix("eval_"): value for key, value in judged.items() if _is_metric(key)}
    except DivergedError:
        status = "diverged"
    kept.stop()
    steps = trainer.state.global_step
    return {
        "status": status,
        "metrics": metrics,
        "steps": steps,
        "train_seconds": progress.train_seconds,
        "eval_seconds": progress.eval_seconds,
        "train_cpu_seconds": _cpu_seconds(progress),
        "seconds_per_step": (progress.train_seconds - progress.eval_seconds) / max(1, steps),
        "step_times": clock.times(),
        "resumed_at": progress.resumed_at,
        "history": [{k: v for k, v in entry.items() if _is_history(k, v)} for entry in trainer.state.log_history],
    }


def _cpu_seconds(progress: checkpoints.Progress) -> float | None:
    """Return the processor time of training without evaluations; None on an accelerator."""
    return None if torch.cuda.is_available() else progress.cpu_seconds - progress.eval_cpu_seconds


def _is_metric(key: str) -> bool:
    return key.startswith("eval_") and not key.endswith(("_runtime", "_per_second"))


def _is_history(key: str, value: Any) -> bool:
    return (key in {"step", "epoch", "loss", "learning_rate"} or _is_metric(key)) and math.isfinite(value)


def _trainer(settings: RunSettings, folder: Path, data: Any, model: Any, tokenizer: Any, method: Any) -> Trainer:
    """Build the Trainer, which differs between methods only in the callback."""
    if settings.training.freeze_embeddings:
        model.get_input_embeddings().requires_grad_(False)
    if settings.training.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})  # required by the methods' hooks
    objective = data.objective(model, tokenizer)
    return batches.trainer_class(objective.trainer_class, settings.training.parts)(
        model=model,
        args=_arguments(settings.training, settings.seed, folder, objective.arguments),
        train_dataset=objective.encode(data.train),
        eval_dataset=objective.encode(data.eval),
        data_collator=objective.collate,
        processing_class=tokenizer,
        compute_metrics=Answers(objective.compute_metrics),
        callbacks=[*([LinearProbe()] if settings.training.linear_probe else []), method],
    )


def _arguments(training: TrainingSettings, seed: int, folder: Path, more: dict[str, Any]) -> Seq2SeqTrainingArguments:
    """Translate the settings to the Trainer's arguments; `more` are those of the task's objective."""
    if training.optimizer != "adamw":  # the Trainer's default
        more = more | {"optim": training.optimizer}
    return Seq2SeqTrainingArguments(
        output_dir=str(folder / CHECKPOINTS),
        num_train_epochs=training.epochs,
        per_device_train_batch_size=training.batch_size // training.parts,
        per_device_eval_batch_size=max(1, training.batch_size // training.parts),
        gradient_accumulation_steps=training.accumulation,
        use_cpu=training.processes > 1 and not torch.cuda.is_available(),  # otherwise each process runs alone
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        warmup_steps=training.warmup,  # below 1, and therefore a fraction of the steps
        max_grad_norm=training.max_grad_norm,
        dataloader_pin_memory=torch.cuda.is_available(),  # without an accelerator torch warns
        bf16=use_bf16(training.precision),
        eval_strategy="epoch" if training.evaluate == "epoch" else "no",
        save_strategy="no",
        logging_steps=0.05,
        logging_nan_inf_filter=False,
        seed=seed,
        full_determinism=training.deterministic,
        report_to="none",
        **more,
    )


def _save_arrays(model: torch.nn.Module, folder: Path, eps: float, answers: dict[str, Any]) -> dict[str, Any]:
    """Write the small arrays next to the record; return their hashes and the standard deviation of degrees."""
    degrees = weight_arrays.degrees(model, eps)
    arrays = {
        "degrees.safetensors": degrees,
        "cells.safetensors": weight_arrays.cells(model, eps),
        "heads.safetensors": weight_arrays.head_arrays(model),
        **({records.PREDICTIONS: answers} if answers else {}),
    }
    room = ARRAY_BYTES - sum(array.nbytes for tensors in arrays.values() for array in tensors.values())
    arrays["patterns.safetensors"] = records.pack_patterns(weight_arrays.patterns(model, eps), room)
    files = {}
    for name, tensors in arrays.items():
        with whole_file(folder / name) as temporary:
            save_file(tensors, temporary)
        files[name] = file_hash(folder / name)
    return {"degree_sd_percent": weight_arrays.degree_sd_percent(degrees), "files": files}


@contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """Lock a run folder, because a killed scheduler may leave a job that still writes to it; delete temporary files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock").acquire(timeout=0)
    except Timeout:
        raise UserError(f"{folder}: another process is writing this run; wait for it to end or stop it") from None
    except PermissionError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): choose a writable folder") from error
    with lock:
        _delete_temporary(folder)
        yield


def _delete_temporary(folder: Path) -> None:
    """Delete files left by killed processes, of `neuroprune.files.atomic` (`.*.tmp`) and safetensors (`.tmp*`)."""
    for path in {*folder.glob(".*.tmp"), *folder.glob(".tmp*")}:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _set_up(settings: RunSettings) -> None:
    """Set threads and seeds before the first random number is drawn; warn if there are too few cores."""
    if distributed.is_main() and (text := crowded(settings.training, available_cores())):
        log.warning("%s: %s.", settings.run, text)
    torch.set_num_threads(settings.training.threads)
    set_seed(settings.seed, deterministic=settings.training.deterministic)
