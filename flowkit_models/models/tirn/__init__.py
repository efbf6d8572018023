"""T-IRN: model, and its maps in three branches."""
