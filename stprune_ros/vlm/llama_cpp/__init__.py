"""The engine on llama.cpp: our vision tower and selection, the language model from a GGUF file."""
