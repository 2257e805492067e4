"""Where the numbers of a run are recorded: a JSON-lines file, W&B, TensorBoard, MLflow, Trackio."""
