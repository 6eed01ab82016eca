"""The catalogue of backbones, in the order of Finetuner's own table.

Another backbone is another entry. The command ``list``, the README's table and the tests read this module.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from exporters.catalogue.spec import (
    BackboneSpec,
    ClipSource,
    HuggingFaceSource,
    OpenClipSource,
    PointNetSource,
    TorchvisionSource,
)
from exporters.errors import UnknownBackboneError
from runtime.artifact.manifest import Projection

_BACKBONES = (
    # https://huggingface.co/jinaai/jina-embedding-t-en-v1
    BackboneSpec(
        name="jina-embedding-t-en-v1",
        task="text-to-text",
        output_dim=312,
        architecture="transformer",
        description="Text embedding model trained using Linnaeus-Clean dataset by Jina AI",
        source=HuggingFaceSource(
            model_id="jinaai/jina-embedding-t-en-v1",
            model_type="bert",
            config=MappingProxyType(
                {"hidden_size": 312, "num_hidden_layers": 4, "num_attention_heads": 12, "intermediate_size": 1200}
            ),
            licence="Apache-2.0",
        ),
    ),
    # https://huggingface.co/jinaai/jina-embedding-s-en-v1
    BackboneSpec(
        name="jina-embedding-s-en-v1",
        task="text-to-text",
        output_dim=512,
        architecture="transformer",
        description="Text embedding model trained using Linnaeus-Clean dataset by Jina AI",
        source=HuggingFaceSource(
            model_id="jinaai/jina-embedding-s-en-v1",
            revision="5ac6cd473e2324c6d5f9e558a6a9f65abb57143e",
            model_type="t5",
            config=MappingProxyType(
                {"vocab_size": 32128, "d_model": 512, "d_ff": 2048, "num_layers": 6, "num_heads": 8, "d_kv": 64}
            ),
            licence="Apache-2.0",
        ),
    ),
    # https://huggingface.co/jinaai/jina-embedding-b-en-v1
    BackboneSpec(
        name="jina-embedding-b-en-v1",
        task="text-to-text",
        output_dim=768,
        architecture="transformer",
        description="Text embedding model trained using Linnaeus-Clean dataset by Jina AI",
        source=HuggingFaceSource(
            model_id="jinaai/jina-embedding-b-en-v1",
            revision="32aa658e5ceb90793454d22a57d8e3a14e699516",
            model_type="t5",
            config=MappingProxyType(
                {"vocab_size": 32128, "d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12, "d_kv": 64}
            ),
            licence="Apache-2.0",
        ),
    ),
    # https://huggingface.co/jinaai/jina-embedding-l-en-v1
    BackboneSpec(
        name="jina-embedding-l-en-v1",
        task="text-to-text",
        output_dim=1024,
        architecture="transformer",
        description="Text embedding model trained using Linnaeus-Clean dataset by Jina AI",
        source=HuggingFaceSource(
            model_id="jinaai/jina-embedding-l-en-v1",
            model_type="t5",
            config=MappingProxyType(
                {"vocab_size": 32128, "d_model": 1024, "d_ff": 4096, "num_layers": 24, "num_heads": 16, "d_kv": 64}
            ),
            licence="Apache-2.0",
        ),
    ),
    # https://huggingface.co/google-bert/bert-base-cased
    BackboneSpec(
        name="bert-base-en",
        task="text-to-text",
        output_dim=768,
        architecture="transformer",
        description="BERT model pre-trained on BookCorpus and English Wikipedia",
        source=HuggingFaceSource(
            model_id="google-bert/bert-base-cased",
            revision="cd5ef92a9fb2f889e972770a36d4ed042daf221e",
            model_type="bert",
            config=MappingProxyType({"vocab_size": 28996}),
            licence="Apache-2.0",
        ),
    ),
    # https://huggingface.co/google-bert/bert-base-multilingual-cased
    BackboneSpec(
        name="bert-base-multi",
        task="text-to-text",
        output_dim=768,
        architecture="transformer",
        description="BERT model pre-trained on multilingual Wikipedia",
        source=HuggingFaceSource(
            model_id="google-bert/bert-base-multilingual-cased",
            revision="3f076fdb1ab68d5b2880cb87a0886f315b8146f8",
            model_type="bert",
            config=MappingProxyType({"vocab_size": 119547}),
            licence="Apache-2.0",
        ),
    ),
    # https://huggingface.co/sentence-transformers/distiluse-base-multilingual-cased-v1
    BackboneSpec(
        name="distiluse-base-multi",
        task="text-to-text",
        output_dim=512,
        architecture="transformer",
        description="Knowledge distilled version of the multilingual Sentence Encoder",
        source=HuggingFaceSource(
            model_id="sentence-transformers/distiluse-base-multilingual-cased-v1",
            revision="ae9f5e096840ab325a30464d284f293fbea761a8",
            model_type="distilbert",
            config=MappingProxyType({"vocab_size": 119547}),
            max_length=128,
            projection=Projection(in_features=768, out_features=512, bias=True, activation="tanh"),
            licence="Apache-2.0",
        ),
    ),
    # https://huggingface.co/sentence-transformers/msmarco-distilbert-base-v3
    BackboneSpec(
        name="sbert-base-en",
        task="text-to-text",
        output_dim=768,
        architecture="transformer",
        description="Pretrained BERT, fine-tuned on MS Marco",
        source=HuggingFaceSource(
            model_id="sentence-transformers/msmarco-distilbert-base-v3",
            model_type="distilbert",
            config=MappingProxyType({}),
            licence="Apache-2.0",
        ),
    ),
    # https://docs.pytorch.org/vision/stable/models/efficientnet.html
    BackboneSpec(
        name="efficientnet-base",
        task="image-to-image",
        output_dim=1792,
        architecture="cnn",
        description="EfficientNet B4 pre-trained on ImageNet",
        source=TorchvisionSource(builder="efficientnet_b4", head="classifier"),
    ),
    BackboneSpec(
        name="efficientnet-large",
        task="image-to-image",
        output_dim=2560,
        architecture="cnn",
        description="EfficientNet B7 pre-trained on ImageNet",
        source=TorchvisionSource(builder="efficientnet_b7", head="classifier"),
    ),
    # https://docs.pytorch.org/vision/stable/models/resnet.html
    BackboneSpec(
        name="resnet-large",
        task="image-to-image",
        output_dim=2048,
        architecture="cnn",
        description="ResNet152 pre-trained on ImageNet",
        source=TorchvisionSource(builder="resnet152", head="fc"),
    ),
    BackboneSpec(
        name="resnet-base",
        task="image-to-image",
        output_dim=2048,
        architecture="cnn",
        description="ResNet50 pre-trained on ImageNet",
        source=TorchvisionSource(builder="resnet50", head="fc"),
    ),
    # https://huggingface.co/openai/clip-vit-base-patch32/blob/main/config.json
    BackboneSpec(
        name="clip-base-en",
        task="text-to-image",
        output_dim=512,
        architecture="transformer",
        description="CLIP base model",
        source=ClipSource(
            model_id="openai/clip-vit-base-patch32",
            revision="3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
            text_config=MappingProxyType({}),
            vision_config=MappingProxyType({}),
            projection_dim=512,
        ),
    ),
    # https://huggingface.co/openai/clip-vit-large-patch14/blob/main/config.json
    BackboneSpec(
        name="clip-large-en",
        task="text-to-image",
        output_dim=768,
        architecture="transformer",
        description="CLIP large model with patch size 14",
        note="dimensions of the common space of texts and images; Finetuner printed 1024, the width of the image tower",
        source=ClipSource(
            model_id="openai/clip-vit-large-patch14",
            revision="32bd64288804d66eefd0ccbe215aa642df71cc41",
            text_config=MappingProxyType({"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}),
            vision_config=MappingProxyType(
                {
                    "hidden_size": 1024,
                    "intermediate_size": 4096,
                    "num_hidden_layers": 24,
                    "num_attention_heads": 16,
                    "patch_size": 14,
                }
            ),
            projection_dim=768,
        ),
    ),
    # https://huggingface.co/laion/CLIP-ViT-B-32-xlm-roberta-base-laion5B-s13B-b90k, and for its text model
    # https://huggingface.co/FacebookAI/xlm-roberta-base/blob/main/config.json
    BackboneSpec(
        name="clip-base-multi",
        task="text-to-image",
        output_dim=512,
        architecture="transformer",
        description='Open MCLIP "xlm-roberta-base-ViT-B-32::laion5b_s13b_b90k" model',
        source=OpenClipSource(
            model_name="xlm-roberta-base-ViT-B-32",
            tag="laion5b_s13b_b90k",
            text_config=MappingProxyType(
                {"vocab_size": 250002, "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1}
            ),
            tokenizer_id="FacebookAI/xlm-roberta-base",
            tokenizer_revision="e73636d4f797dec63c3081bb6ed5c7b0bb3f2089",
            licence="MIT",
        ),
    ),
    # https://arxiv.org/abs/1706.02413
    BackboneSpec(
        name="pointnet-base",
        task="mesh-to-mesh",
        output_dim=512,
        architecture="pointnet",
        description="PointNet++ embedding model for 3D mesh point clouds",
        note="no published weights; use those of your own Finetuner run, or random weights",
        source=PointNetSource(),
    ),
)

BACKBONES: Mapping[str, BackboneSpec] = MappingProxyType({spec.name: spec for spec in _BACKBONES})


def find_backbone(name: str) -> BackboneSpec:
    """Return the entry with that name.

    Raises:
        UnknownBackboneError: The catalogue has no such name; the message lists similar names.
    """
    if name not in BACKBONES:
        close = difflib.get_close_matches(name.lower(), BACKBONES, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else "see `python -m exporters list`"
        raise UnknownBackboneError(f"there is no backbone {name!r}; {hint}")
    return BACKBONES[name]


def find_descriptor(descriptor: str) -> BackboneSpec | None:
    """Return the entry for a name in Finetuner, such as ``bert-base-cased`` or ``bert-base-en``; else ``None``."""
    name = descriptor.rpartition("/")[2]
    if name in BACKBONES:
        return BACKBONES[name]
    return next((spec for spec in BACKBONES.values() if spec.source and spec.source.descriptor == name), None)
