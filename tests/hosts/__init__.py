"""The prompt lock inside real webuis: every generating path is driven, and what enters the model is compared."""
