"""The only place that walks a model and knows what each of its layers is."""
