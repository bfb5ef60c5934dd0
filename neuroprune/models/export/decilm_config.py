"""Configuration of a Llama whose layers have MLPs of different sizes, for vLLM's DeciLMForCausalLM.

`neuroprune export --format vllm` copies this file to the model's folder. It depends only on transformers.
"""

from typing import Any

from transformers import LlamaConfig


class Block(dict[str, Any]):
    """A part of `block_configs` whose keys are also readable as attributes."""

    def __getattr__(self, name: str) -> Any:
        """Return a key's value."""
        if name not in self:
            raise AttributeError(name)
        value = self[name]
        return Block(value) if isinstance(value, dict) else value


class DeciLMConfig(LlamaConfig):
    """Llama's configuration with `block_configs`: the attention's and the MLP's shape of each layer."""

    model_type = "nemotron-nas"

    def __setattr__(self, name: str, value: Any) -> None:
        """Convert blocks, so that their keys are readable as attributes."""
        super().__setattr__(name, [Block(block) for block in value] if name == "block_configs" else value)
