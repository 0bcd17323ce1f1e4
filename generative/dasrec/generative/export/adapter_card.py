"""The README of a generator artifact: how to open its adapter without dasrec."""


def adapter_readme(base: str, architecture: str) -> str:
    """README.md of a generator artifact: how to open its adapter with peft alone.

    Args:
        base: relative path from the artifact to its base model.
        architecture: transformers' name of the model family.
    """
    return f"""---
library_name: peft
base_model: {base}
tags: [recommendation, generative-recommendation, semantic-ids, dasrec]
---

# LoRA adapter of a generative recommender ({architecture})

`adapter/` holds LoRA matrices and the trained rows of the semantic-ID tokens. They belong to the
base model at `{base}` (relative to this folder; also in `base.json`), which already has those
tokens: a model of the same name from elsewhere does not fit.

```python
from pathlib import Path
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

here = Path("...")  # this folder
model = AutoModelForCausalLM.from_pretrained(here / "{base}")
model = PeftModel.from_pretrained(model, here / "adapter").eval()
tokenizer = AutoTokenizer.from_pretrained(here)
```

`dasrec export` merges both into one model and adds what serving needs.
"""
