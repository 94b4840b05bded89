"""LoRA adapters on disk in the layout of the PEFT library, read as it reads them, and written.

A folder holds `adapter_config.json` and `adapter_model.safetensors`; a map's matrices are
`base_model.model.{module}.lora_A.weight` `[r, in]` and `lora_B` `[out, r]`. Modules are those of
the base in Hugging Face's code, where several maps may be one (GPT-2, GPT-NeoX, Phi-3).
"""

from selfx.weights.peft.read import PeftAdapter, load_adapter, read_adapter
from selfx.weights.peft.stacked import Matrices
from selfx.weights.peft.write import save_adapter, write_adapter

__all__ = [
    "Matrices",
    "PeftAdapter",
    "load_adapter",
    "read_adapter",
    "save_adapter",
    "write_adapter",
]
