"""Recognition of speech with Whisper: an encoder of `vit_jax` and a decoder of `bert_jax`."""
