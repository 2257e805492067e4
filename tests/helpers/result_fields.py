"""What `result.json` of every run holds."""

FIELDS = {
    *("format", "status", "error", "iteration"),
    *("algo", "data", "backbone", "ways", "shots", "queries", "partition", "seed"),
    *("metric", "higher_is_better", "mean", "ci95", "median", "tasks", "not_finite"),
    *("step", "steps", "metrics", "episodes", "validation"),
    *(
        "iterations",
        "train_seconds",
        "compile_seconds",
        "test_seconds",
        "iterations_per_second",
        "peak_memory_mb",
        "parameters",
    ),
    *(
        "paper",
        "overrides",
        "device",
        "threads",
        "compiled",
        "vectorized",
        "replicas",
        "processes",
        "trackers",
        "versions",
        "commit",
        "incomplete",
        "sha256",
    ),
}
