"""The catalogue of backbones, in the order of Finetuner's own table.

Another backbone is another entry. The command ``list``, the README's table and the tests read this module.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from exporters.catalogue.spec import (
    Architecture,
    BackboneSource,
    BackboneSpec,
    ClipSource,
    CnnSource,
    HuggingFaceSource,
    OpenClipSource,
    PointNetSource,
    TimmSource,
    TorchvisionModelSource,
)
from exporters.errors import UnknownBackboneError
from runtime.artifact.manifest import Projection, Task

_JINA = "Text embedding model trained using Linnaeus-Clean dataset by Jina AI"
_KINDS: Mapping[type[BackboneSource], tuple[Task, Architecture]] = {
    HuggingFaceSource: ("text-to-text", "transformer"),
    CnnSource: ("image-to-image", "cnn"),
    # as entries, vision transformers; any other encoder of these libraries is exported without an entry
    TorchvisionModelSource: ("image-to-image", "transformer"),
    TimmSource: ("image-to-image", "transformer"),
    ClipSource: ("text-to-image", "transformer"),
    OpenClipSource: ("text-to-image", "transformer"),
    PointNetSource: ("mesh-to-mesh", "pointnet"),
}


def _entry(name: str, output_dim: int, description: str, source: BackboneSource, note: str = "") -> BackboneSpec:
    task, architecture = _KINDS[type(source)]
    return BackboneSpec(
        name=name,
        task=task,
        output_dim=output_dim,
        architecture=architecture,
        description=description,
        note=note,
        source=source,
    )


def _jina_t5(
    size: str, *, d_model: int, d_ff: int, layers: int, heads: int, revision: str | None = None
) -> BackboneSpec:
    name = f"jina-embedding-{size}-en-v1"
    sizes = {
        "vocab_size": 32128,
        "d_model": d_model,
        "d_ff": d_ff,
        "num_layers": layers,
        "num_heads": heads,
        "d_kv": 64,
    }
    source = HuggingFaceSource(
        model_id=f"jinaai/{name}", revision=revision, model_type="t5", config=sizes, licence="Apache-2.0"
    )
    return _entry(name, d_model, _JINA, source)


_BACKBONES = (
    # https://huggingface.co/jinaai/jina-embedding-t-en-v1
    _entry(
        "jina-embedding-t-en-v1",
        312,
        _JINA,
        HuggingFaceSource(
            model_id="jinaai/jina-embedding-t-en-v1",
            model_type="bert",
            config={"hidden_size": 312, "num_hidden_layers": 4, "num_attention_heads": 12, "intermediate_size": 1200},
            licence="Apache-2.0",
        ),
    ),
    # https://huggingface.co/jinaai/jina-embedding-s-en-v1, and the same for b and l
    _jina_t5("s", d_model=512, d_ff=2048, layers=6, heads=8, revision="5ac6cd473e2324c6d5f9e558a6a9f65abb57143e"),
    _jina_t5("b", d_model=768, d_ff=3072, layers=12, heads=12, revision="32aa658e5ceb90793454d22a57d8e3a14e699516"),
    _jina_t5("l", d_model=1024, d_ff=4096, layers=24, heads=16),
    # https://huggingface.co/google-bert/bert-base-cased
    _entry(
        "bert-base-en",
        768,
        "BERT model pre-trained on BookCorpus and English Wikipedia",
        HuggingFaceSource(
            model_id="google-bert/bert-base-cased",
            revision="cd5ef92a9fb2f889e972770a36d4ed042daf221e",
            model_type="bert",
            config={"vocab_size": 28996},
            licence="Apache-2.0",
        ),
    ),
    # https://huggingface.co/google-bert/bert-base-multilingual-cased
    _entry(
        "bert-base-multi",
        768,
        "BERT model pre-trained on multilingual Wikipedia",
        HuggingFaceSource(
            model_id="google-bert/bert-base-multilingual-cased",
            revision="3f076fdb1ab68d5b2880cb87a0886f315b8146f8",
            model_type="bert",
            config={"vocab_size": 119547},
            licence="Apache-2.0",
        ),
    ),
    # https://huggingface.co/sentence-transformers/distiluse-base-multilingual-cased-v1
    _entry(
        "distiluse-base-multi",
        512,
        "Knowledge distilled version of the multilingual Sentence Encoder",
        HuggingFaceSource(
            model_id="sentence-transformers/distiluse-base-multilingual-cased-v1",
            revision="ae9f5e096840ab325a30464d284f293fbea761a8",
            model_type="distilbert",
            config={"vocab_size": 119547},
            max_length=128,
            projection=Projection(in_features=768, out_features=512, bias=True, activation="tanh"),
            licence="Apache-2.0",
        ),
    ),
    # https://huggingface.co/sentence-transformers/msmarco-distilbert-base-v3
    _entry(
        "sbert-base-en",
        768,
        "Pretrained BERT, fine-tuned on MS Marco",
        HuggingFaceSource(
            model_id="sentence-transformers/msmarco-distilbert-base-v3",
            model_type="distilbert",
            config={},
            licence="Apache-2.0",
        ),
    ),
    # https://docs.pytorch.org/vision/stable/models/efficientnet.html
    _entry(
        "efficientnet-base",
        1792,
        "EfficientNet B4 pre-trained on ImageNet",
        CnnSource(builder="efficientnet_b4", head="classifier"),
    ),
    _entry(
        "efficientnet-large",
        2560,
        "EfficientNet B7 pre-trained on ImageNet",
        CnnSource(builder="efficientnet_b7", head="classifier"),
    ),
    # https://docs.pytorch.org/vision/stable/models/resnet.html
    _entry("resnet-large", 2048, "ResNet152 pre-trained on ImageNet", CnnSource(builder="resnet152", head="fc")),
    _entry("resnet-base", 2048, "ResNet50 pre-trained on ImageNet", CnnSource(builder="resnet50", head="fc")),
    # https://huggingface.co/openai/clip-vit-base-patch32/blob/main/config.json
    _entry(
        "clip-base-en",
        512,
        "CLIP base model",
        ClipSource(
            model_id="openai/clip-vit-base-patch32",
            revision="3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
            text_config={},
            vision_config={},
            projection_dim=512,
        ),
    ),
    # https://huggingface.co/openai/clip-vit-large-patch14/blob/main/config.json
    _entry(
        "clip-large-en",
        768,
        "CLIP large model with patch size 14",
        ClipSource(
            model_id="openai/clip-vit-large-patch14",
            revision="32bd64288804d66eefd0ccbe215aa642df71cc41",
            text_config={"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
            vision_config={
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "patch_size": 14,
            },
            projection_dim=768,
        ),
        "dimensions of the common space of texts and images; Finetuner printed 1024, the width of the image tower",
    ),
    # https://huggingface.co/laion/CLIP-ViT-B-32-xlm-roberta-base-laion5B-s13B-b90k, and for its text model
    # https://huggingface.co/FacebookAI/xlm-roberta-base/blob/main/config.json
    _entry(
        "clip-base-multi",
        512,
        'Open MCLIP "xlm-roberta-base-ViT-B-32::laion5b_s13b_b90k" model',
        OpenClipSource(
            model_name="xlm-roberta-base-ViT-B-32",
            tag="laion5b_s13b_b90k",
            text_config={"vocab_size": 250002, "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1},
            tokenizer_id="FacebookAI/xlm-roberta-base",
            tokenizer_revision="e73636d4f797dec63c3081bb6ed5c7b0bb3f2089",
            licence="MIT",
        ),
    ),
    # https://arxiv.org/abs/1706.02413
    _entry(
        "pointnet-base",
        512,
        "PointNet++ embedding model for 3D mesh point clouds",
        PointNetSource(),
        "no published weights; use those of your own Finetuner run, or random weights",
    ),
)

BACKBONES: Mapping[str, BackboneSpec] = MappingProxyType({spec.name: spec for spec in _BACKBONES})


def find_backbone(name: str) -> BackboneSpec:
    """Return the entry with that name.

    Raises:
        UnknownBackboneError: The catalogue has no such name; the message lists similar names.
    """
    if name not in BACKBONES:
        raise UnknownBackboneError(f"there is no backbone {name!r}; {suggest_backbone(name)}")
    return BACKBONES[name]


def suggest_backbone(name: str) -> str:
    """Return a hint at the names of the catalogue that are similar to ``name``."""
    close = difflib.get_close_matches(name.lower(), BACKBONES, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else "see `python -m exporters list`"


def find_descriptor(descriptor: str) -> BackboneSpec | None:
    """Return the entry for a name in Finetuner, such as ``bert-base-cased`` or ``bert-base-en``; else ``None``."""
    name = descriptor.rpartition("/")[2]
    if name in BACKBONES:
        return BACKBONES[name]
    return next((spec for spec in BACKBONES.values() if spec.source and name and spec.source.descriptor == name), None)
