"""Vision-language models: one protocol, the prompt around it, and one folder per engine."""
