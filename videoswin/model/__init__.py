"""The model: normalized clips in, logits out. Needs torch only and knows neither files nor videos."""
