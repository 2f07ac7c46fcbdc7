"""Every error code and what it means: the source of ``docs/errors.md``.

Notable: a code, once published, keeps its meaning. Codes are ``room-what``; the message beside a
code carries the values seen and the fix.
"""

from __future__ import annotations

CODES: dict[str, str] = {
    # core
    "core-locked": "Another process is working in the same output folder.",
    "core-interrupted": "The command was stopped on request; finished steps are saved.",
    "core-disk-full": "The disk is full; the last complete file was kept.",
    "core-not-writable": "A folder or file cannot be written (read-only file system or permission).",
    "core-unknown-name": "A name is not in the registry it was looked up in.",
    "core-child-killed": "A worker process was killed, most often for memory.",
    "core-child-failed": "A worker process ended with an unexpected error.",
    "core-missing-extra": "An optional package is needed and not installed.",
    "core-internal": "An unexpected error inside Locum; please report it.",
    # pipeline
    "pipeline-nothing-built": "Every candidate of the ladder was ruled out; each is listed with its reason.",
    # cli
    "cli-usage": "A command or option that does not exist, or a missing argument.",
    # schema
    "schema-invalid": "A document that Locum wrote cannot be read: damaged, or of another version.",
    # task file
    "task-missing": "The task file does not exist or cannot be read.",
    "task-invalid": "The task file has one or more faults, each listed with its line.",
    "task-too-large": "The task file is larger than a task file may be, or expands too much.",
    "task-version": "The task file's schema version is not one this Locum reads.",
    "task-exists": "A task file stands where a new one would be written.",
    # sources
    "source-address": "An address is not a path, https://, hf:// or pypi:// address, or is malformed.",
    "source-missing": "A path given as a source does not exist.",
    "source-unavailable": "No source answered with what was asked; every attempt is listed.",
    "source-checksum": "A file does not have the SHA-256 that it must have.",
    "source-offline": "Something is not in the cache, and downloads are switched off.",
    "source-redirect": "A download was redirected where it may not go.",
    "source-too-large": "A download or archive is larger than the cap.",
    "source-truncated": "A download ended early, again and again.",
    "source-lfs-pointer": "A Git LFS pointer stands where the file itself should be.",
    "source-no-pip": "pypi:// needs pip in the running Python, and it is not there.",
    "source-archive-unsafe": "An archive names a path outside its folder, a link or a device.",
    "source-archive-expands": "An archive expands far beyond its own size, as a zip bomb does.",
    "source-archive-damaged": "An archive or wheel cannot be read, or lacks a member.",
    "source-unknown-base": "A base is not in the catalogue, and not a folder, file or hf:// address.",
    "source-not-a-base": "A folder or repository does not hold a model that can be loaded safely.",
    # runtime
    "runtime-not-a-model-folder": "A folder has no readable model.json, so nothing says how to open it.",
    "runtime-hash": "A model file does not have the SHA-256 that its model.json names; it is refused.",
    "runtime-file-missing": "A file that model.json names is not there (a missing shard, or an incomplete copy).",
    "runtime-unsafe-path": "A model names a file outside its own folder.",
    "runtime-pickle": "A file is a pickle or a PyTorch archive, which can run code when it is opened.",
    "runtime-lfs-pointer": "A Git LFS pointer stands where a model file should be.",
    "runtime-damaged": "A model file is damaged: it cannot be read as what it says it is.",
    "runtime-unsupported": "A model needs an operator, architecture or quantisation that the engine lacks.",
    "runtime-mismatch": "The parts of a model do not fit together (tokenizer, weights, labels).",
    "runtime-engine-failed": "The engine failed while it answered.",
    "runtime-closed": "A model was asked after it was closed.",
    "runtime-child-start": "The engine's process did not become ready.",
    "runtime-child-died": "The engine's process ended while it was needed.",
    "runtime-timeout": "The engine did not answer in time.",
    "runtime-instructions": "The processor lacks the instructions that an engine's build needs.",
    "runtime-too-long": "A request is longer than the model's context.",
    # runtime: the LLM behind its URL
    "upstream-url": "The LLM's URL cannot be used: wrong scheme, or unencrypted outside your own network.",
    "upstream-key-missing": "The environment variable that should hold the LLM's key is not set.",
    "upstream-unreachable": "No connection to the LLM: name, network, or TLS.",
    "upstream-timeout": "The LLM did not answer in time.",
    "upstream-refused-key": "The LLM refused the key.",
    "upstream-rate-limited": "The LLM is rate-limited and stayed so after the retries.",
    "upstream-server-error": "The LLM answered with a server error, again and again.",
    "upstream-bad-request": "The LLM rejected the request.",
    "upstream-redirect": "The LLM's URL redirects elsewhere; the key is not sent after it.",
    "upstream-too-large": "The LLM's answer is larger than the cap.",
    "upstream-bad-answer": "The LLM's answer is not what the OpenAI API promises.",
    # compress
    "compress-trained": "The folder of a trained student is incomplete, changed or damaged.",
    "compress-dev": "The dev split does not fit the trained student.",
    "compress-export": "A trained student cannot be written in the form that its engine needs.",
    "compress-parity": "The exported model does not answer as the trained model did; it is not kept.",
    # fit
    "fit-memory": "The estimated memory is more than the device has.",
    "fit-instructions": "The processor lacks an instruction set that the engine needs.",
    "fit-unknown-device": "A device name is not one that Locum knows.",
    # stats
    "stats-input": "Numbers given to a statistic are out of range, NaN, or of unequal length.",
    # data
    "data-missing": "A data file does not exist or cannot be read.",
    "data-empty": "A data file holds no rows, or fewer than a build needs.",
    "data-archive": "An archive or a document was given where a data file should be.",
    "data-damaged": "A data file is damaged: its container (gzip, Parquet, Arrow) cannot be read.",
    "data-expands": "A compressed data file expands far beyond its own size, as a zip bomb does.",
    "data-encoding": "A text file's encoding is unknown, ambiguous, or not the one that was named.",
    "data-too-long": "A line or field is longer than may stand in memory at once.",
    "data-format": "A data file is not in the format that was named, or in none that is known.",
    "data-no-header": "A CSV or TSV file has no line with column names.",
    "data-columns": "A column that the task names is not in the file, or stands there twice.",
    "data-bad-rows": "Rows that cannot be used, listed by line.",
    "data-changed": "A data file changed while it was being read.",
    "data-one-label": "Every row has the same label, so there is nothing to learn.",
    "data-not-labels": "The output column has about as many values as rows: it holds no labels.",
    "data-leakage": "Test rows also stand in the training data.",
    "data-calibration-leak": "Calibration rows also stand in the data that a student learns from.",
    "data-split": "A prepared data set lacks a split, or a split differs from its data card.",
    # evaluate
    "evaluate-no-rows": "There are no rows to evaluate on.",
    "evaluate-predictions": "A file of predictions is absent, damaged, or not one.",
    "evaluate-different-rows": "Two models that are to be compared answered different rows.",
    "evaluate-llm-gave-up": "The LLM failed several times in a row; the answers so far are kept.",
    "evaluate-llm-cap": "The cap on what the LLM may write was reached; the answers so far are kept.",
    # models
    "models-not-a-base": "A path is not a base: no folder with config.json and safetensors, and no GGUF file.",
    "models-file-missing": "A file of a base or student is missing (a shard, the tokenizer, the configuration).",
    "models-damaged": "A base or student cannot be read as what it says it is.",
    "models-pickle": "The weights are a pickle, which can run code when it is read.",
    "models-remote-code": "A base asks to run code of its repository (auto_map); Locum never does.",
    "models-lfs-pointer": "A Git LFS pointer stands where a base's file should be.",
    "models-unsupported": "A base's architecture is not one that Locum trains.",
    "models-tokenizer-mismatch": "A tokenizer gives ids that the model has no embedding for.",
    "models-nan": "Weights hold NaN or infinity.",
    "models-depth": "The depth asked for is not within the layers of the base.",
    # train
    "train-request": "A training request does not fit its method, its data or its labels.",
    "train-nan": "The loss became NaN before any weights worth keeping were saved.",
    "train-memory": "Memory ran out while training; a smaller micro-batch needs less.",
    # bundle
    "bundle-missing": "There is no bundle in the folder: its manifest is absent or cannot be read.",
    "bundle-incomplete": "A bundle lacks a file that it must have, or that its manifest names.",
    "bundle-extra": "A bundle holds a file that its manifest does not name.",
    "bundle-hash": "A file of a bundle does not have the SHA-256 of the manifest; the bundle is refused.",
    "bundle-unsafe": "A bundle holds a link or special file, or its manifest a name outside the folder.",
    # gateway
    "gateway-host": "The gateway may not listen beyond this machine without a key in LOCUM_API_KEY.",
    "gateway-port": "The port cannot be listened on.",
    "gateway-llm-busy": "As many requests as may be with the LLM at once are there already.",
    # cascade
    "cascade-not-certified": "No threshold can be certified on the calibration rows; everything is handed over.",
    "cascade-regret-needs-llm": "A regret certificate needs the LLM's answers to the calibration rows.",
    "cascade-stages": "The policy has a number of stages that the router does not serve.",
    "cascade-no-llm": "An answer from the LLM was asked for, and none is configured.",
}
