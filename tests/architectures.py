"""Networks that people export, written out at reduced width: what the channel finder has to understand.

Each is the published block structure with few blocks and channels, so that an export is some ten kilobytes. They need
torch; `tests/data/architectures/export.py` turns them into the stored ONNX files that the tests read without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["ARCHITECTURES", "Architecture"]


def _conv(i: int, o: int, k: int = 3, s: int = 1, g: int = 1, act: nn.Module | None = None) -> nn.Sequential:
    layers = [nn.Conv2d(i, o, k, s, k // 2, groups=g, bias=False), nn.BatchNorm2d(o)]
    return nn.Sequential(*layers, *([act] if act is not None else []))


class _Head(nn.Module):
    """Global average pooling and a classifier."""

    def __init__(self, features: nn.Module, width: int, classes: int = 10) -> None:
        super().__init__()
        self.features, self.pool, self.classifier = features, nn.AdaptiveAvgPool2d(1), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.pool(self.features(x)), 1))


# --- convolutional networks -------------------------------------------------------------------------------------


class _SqueezeExcite(nn.Module):
    def __init__(self, c: int, inner: int, act: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.fc2 = nn.Conv2d(c, inner, 1), nn.Conv2d(inner, c, 1)
        self.act, self.gate = act, gate

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.fc2(self.act(self.fc1(self.pool(x)))))


class _Bottleneck(nn.Module):
    """ResNet's; with groups and squeeze-and-excitation it is RegNet's."""

    def __init__(self, i: int, inner: int, o: int, s: int = 1, g: int = 1, se: int = 0) -> None:
        super().__init__()
        parts = [_conv(i, inner, 1, act=nn.ReLU()), _conv(inner, inner, 3, s, g, nn.ReLU())]
        if se:
            parts.append(_SqueezeExcite(inner, se, nn.ReLU(), nn.Sigmoid()))
        self.body = nn.Sequential(*parts, _conv(inner, o, 1))
        self.skip = _conv(i, o, 1, s) if i != o or s != 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.skip(x))


def resnet() -> nn.Module:
    stem = nn.Sequential(_conv(3, 8, 7, 2, act=nn.ReLU()), nn.MaxPool2d(3, 2, 1))
    blocks = [_Bottleneck(8, 4, 16), _Bottleneck(16, 4, 16), _Bottleneck(16, 8, 32, 2), _Bottleneck(32, 8, 32)]
    return _Head(nn.Sequential(stem, *blocks), 32)


def regnet() -> nn.Module:
    blocks = [_Bottleneck(8, 16, 16, 2, 4, 4), _Bottleneck(16, 16, 16, 1, 4, 4), _Bottleneck(16, 24, 24, 2, 6, 6)]
    return _Head(nn.Sequential(_conv(3, 8, 3, 2, act=nn.ReLU()), *blocks), 24)


class _InvertedResidual(nn.Module):
    def __init__(self, i: int, o: int, expand: int, s: int, act: type[nn.Module], se: nn.Module | None = None) -> None:
        super().__init__()
        inner = i * expand
        parts = [_conv(i, inner, 1, act=act()), _conv(inner, inner, 3, s, inner, act())]
        self.body = nn.Sequential(*parts, *([se] if se is not None else []), _conv(inner, o, 1))
        self.add = s == 1 and i == o

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.add else self.body(x)


def mobilenet_v2() -> nn.Module:
    act = nn.ReLU6
    blocks = [_InvertedResidual(i, o, 4, s, act) for i, o, s in ((8, 8, 1), (8, 12, 2), (12, 12, 1), (12, 16, 2))]
    return _Head(nn.Sequential(_conv(3, 8, 3, 2, act=act()), *blocks, _conv(16, 32, 1, act=act())), 32)


def mobilenet_v3() -> nn.Module:
    act = nn.Hardswish
    blocks = [
        _InvertedResidual(i, o, 4, s, act, _SqueezeExcite(i * 4, 8, nn.ReLU(), nn.Hardsigmoid()))
        for i, o, s in ((8, 8, 1), (8, 12, 2), (12, 12, 1))
    ]
    features = nn.Sequential(_conv(3, 8, 3, 2, act=act()), *blocks, _conv(12, 32, 1, act=act()))
    head = _Head(features, 32)
    head.classifier = nn.Sequential(nn.Linear(32, 24), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(24, 10))
    return head


def efficientnet() -> nn.Module:
    act = nn.SiLU
    blocks = [
        _InvertedResidual(i, o, 4, s, act, _SqueezeExcite(i * 4, 4, nn.SiLU(), nn.Sigmoid()))
        for i, o, s in ((8, 8, 1), (8, 12, 2), (12, 12, 1))
    ]
    return _Head(nn.Sequential(_conv(3, 8, 3, 2, act=act()), *blocks, _conv(12, 32, 1, act=act())), 32)


class _DenseLayer(nn.Module):
    def __init__(self, i: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(i), nn.ReLU(), nn.Conv2d(i, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth), nn.ReLU(), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], 1)


def densenet() -> nn.Module:
    layers: list[nn.Module] = [_conv(3, 8, 3, 2, act=nn.ReLU())]
    layers += [_DenseLayer(8 + 4 * n, 4) for n in range(3)]
    layers += [nn.BatchNorm2d(20), nn.ReLU(), nn.Conv2d(20, 10, 1, bias=False), nn.AvgPool2d(2)]
    layers += [_DenseLayer(10 + 4 * n, 4) for n in range(2)]
    return _Head(nn.Sequential(*layers, nn.BatchNorm2d(18), nn.ReLU()), 18)


class _ShuffleUnit(nn.Module):
    def __init__(self, i: int, o: int, s: int) -> None:
        super().__init__()
        half, into = o // 2, i if s > 1 else i // 2
        self.stride = s
        if s > 1:
            self.left = nn.Sequential(_conv(i, i, 3, s, i), _conv(i, half, 1, act=nn.ReLU()))
        parts = [
            _conv(into, half, 1, act=nn.ReLU()),
            _conv(half, half, 3, s, half),
            _conv(half, half, 1, act=nn.ReLU()),
        ]
        self.right = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            one, two = x.chunk(2, dim=1)
            x = torch.cat((one, self.right(two)), dim=1)
        else:
            x = torch.cat((self.left(x), self.right(x)), dim=1)
        b, c, h, w = x.shape
        return x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)


def shufflenet() -> nn.Module:
    units = [_ShuffleUnit(8, 16, 2), _ShuffleUnit(16, 16, 1), _ShuffleUnit(16, 32, 2), _ShuffleUnit(32, 32, 1)]
    return _Head(nn.Sequential(_conv(3, 8, 3, 2, act=nn.ReLU()), *units, _conv(32, 48, 1, act=nn.ReLU())), 48)


class _ChannelsFirstNorm(nn.Module):
    """ConvNeXt's LayerNorm of an image whose channels stand first."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(c)), nn.Parameter(torch.zeros(c))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        x = centred / torch.sqrt(centred.pow(2).mean(1, keepdim=True) + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class _ConvNeXtBlock(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.dw, self.norm = nn.Conv2d(c, c, 7, padding=3, groups=c), nn.LayerNorm(c)
        self.up, self.down = nn.Linear(c, 4 * c), nn.Linear(4 * c, c)
        self.scale = nn.Parameter(torch.full((c,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dw(x).permute(0, 2, 3, 1))
        y = self.scale * self.down(functional.gelu(self.up(y)))
        return x + y.permute(0, 3, 1, 2)


def convnext() -> nn.Module:
    stem = [nn.Conv2d(3, 8, 4, 4), _ChannelsFirstNorm(8), _ConvNeXtBlock(8), _ConvNeXtBlock(8)]
    body = [_ChannelsFirstNorm(8), nn.Conv2d(8, 16, 2, 2), _ConvNeXtBlock(16)]
    return _Head(nn.Sequential(*stem, *body), 16)


def _double(i: int, o: int) -> nn.Module:
    return nn.Sequential(_conv(i, o, act=nn.ReLU()), _conv(o, o, act=nn.ReLU()))


class _UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = _double(3, 8), _double(8, 12), _double(12, 16)
        self.up2, self.up1 = nn.ConvTranspose2d(16, 12, 2, 2), nn.ConvTranspose2d(12, 8, 2, 2)
        self.back2, self.back1, self.out = _double(24, 12), _double(16, 8), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.one(x)
        two = self.two(functional.max_pool2d(one, 2))
        three = self.three(functional.max_pool2d(two, 2))
        two = self.back2(torch.cat([two, self.up2(three)], 1))
        return self.out(self.back1(torch.cat([one, self.up1(two)], 1)))


class _C2f(nn.Module):
    """YOLOv8's: split in two, every bottleneck's output joins."""

    def __init__(self, i: int, o: int, n: int, shortcut: bool) -> None:
        super().__init__()
        c = o // 2
        self.cv1, self.cv2 = _conv(i, o, 1, act=nn.SiLU()), _conv((2 + n) * c, o, 1, act=nn.SiLU())
        self.blocks = nn.ModuleList(
            nn.Sequential(_conv(c, c, act=nn.SiLU()), _conv(c, c, act=nn.SiLU())) for _ in range(n)
        )
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.cv1(x).chunk(2, 1))
        for block in self.blocks:
            made = block(parts[-1])
            parts.append(parts[-1] + made if self.shortcut else made)
        return self.cv2(torch.cat(parts, 1))


class _SPPF(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = _conv(c, c // 2, 1, act=nn.SiLU()), _conv(2 * c, c, 1, act=nn.SiLU())
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv1(x)
        one = self.pool(x)
        two = self.pool(one)
        return self.cv2(torch.cat((x, one, two, self.pool(two)), 1))


class _Yolo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        act = nn.SiLU()
        self.stem = nn.Sequential(_conv(3, 8, 3, 2, act=act), _conv(8, 12, 3, 2, act=act), _C2f(12, 12, 1, True))
        self.deep = nn.Sequential(_conv(12, 16, 3, 2, act=act), _C2f(16, 16, 1, True), _SPPF(16))
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.merge1 = _C2f(28, 12, 1, False)
        self.down, self.merge2 = _conv(12, 12, 3, 2, act=act), _C2f(28, 16, 1, False)
        self.boxes = nn.ModuleList(nn.Sequential(_conv(c, 8, act=act), nn.Conv2d(8, 16, 1)) for c in (12, 16))
        self.classes = nn.ModuleList(nn.Sequential(_conv(c, 8, act=act), nn.Conv2d(8, 3, 1)) for c in (12, 16))
        self.bins = nn.Conv2d(4, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.stem(x)
        deep = self.deep(shallow)
        one = self.merge1(torch.cat((self.up(deep), shallow), 1))
        two = self.merge2(torch.cat((self.down(one), deep), 1))
        made = [torch.cat((b(f), c(f)), 1) for b, c, f in zip(self.boxes, self.classes, (one, two), strict=True)]
        joined = torch.cat([m.view(x.shape[0], 19, -1) for m in made], 2)
        box, classes = joined.split((16, 3), 1)
        b, _, a = box.shape
        box = self.bins(box.view(b, 4, 4, a).transpose(2, 1).softmax(1)).view(b, 4, a)
        return torch.cat((box, classes.sigmoid()), 1)


class _ConvLstm(nn.Module):
    """A text recogniser: columns of a picture are read by an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        act = nn.ReLU()
        self.features = nn.Sequential(
            _conv(1, 8, act=act), nn.MaxPool2d(2), _conv(8, 16, act=act), nn.MaxPool2d((8, 1))
        )
        self.lstm = nn.LSTM(16, 12, bidirectional=True)
        self.hidden, self.out = nn.Linear(24, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x).squeeze(2).permute(2, 0, 1)
        x, _ = self.lstm(x)
        return self.out(torch.relu(self.hidden(x)))


# --- transformers -----------------------------------------------------------------------------------------------


class _FusedAttention(nn.Module):
    """ViT's: one product makes query, key and value."""

    def __init__(self, c: int, heads: int) -> None:
        super().__init__()
        self.qkv, self.proj, self.heads = nn.Linear(c, 3 * c), nn.Linear(c, c), heads

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1) * (c // self.heads) ** -0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, c))


class _VitBlock(nn.Module):
    def __init__(self, c: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.attention = nn.LayerNorm(c), nn.LayerNorm(c), _FusedAttention(c, heads)
        self.mlp = nn.Sequential(nn.Linear(c, 3 * c), nn.GELU(), nn.Linear(3 * c, c))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _Vit(nn.Module):
    def __init__(self, c: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, c, 8, 8)
        self.token, self.position = nn.Parameter(torch.randn(1, 1, c)), nn.Parameter(torch.randn(1, 17, c))
        self.blocks, self.norm = nn.Sequential(*[_VitBlock(c, heads) for _ in range(2)]), nn.LayerNorm(c)
        self.head = nn.Linear(c, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(x.shape[0], -1, -1), x), 1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


class _BertLayer(nn.Module):
    def __init__(self, c: int, heads: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(c, c) for _ in range(4))
        self.up, self.down, self.heads = nn.Linear(c, 4 * c), nn.Linear(4 * c, c), heads
        self.norm1, self.norm2 = nn.LayerNorm(c), nn.LayerNorm(c)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = (m(x).view(b, n, self.heads, c // self.heads).transpose(1, 2) for m in (self.q, self.k, self.v))
        scores = q @ k.transpose(-1, -2) / math.sqrt(c // self.heads) + mask
        x = self.norm1(x + self.o((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c)))
        return self.norm2(x + self.down(functional.gelu(self.up(x))))


class _Bert(nn.Module):
    def __init__(self, c: int = 16, heads: int = 4, tokens: int = 50) -> None:
        super().__init__()
        self.words, self.positions, self.norm = nn.Embedding(tokens, c), nn.Embedding(32, c), nn.LayerNorm(c)
        self.layers = nn.ModuleList(_BertLayer(c, heads) for _ in range(2))
        self.pooler, self.classifier = nn.Linear(c, c), nn.Linear(c, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.norm(self.words(ids) + self.positions(places))
        shown = (1.0 - mask[:, None, None, :].to(x.dtype)) * -1e4
        for layer in self.layers:
            x = layer(x, shown)
        return self.classifier(torch.tanh(self.pooler(x[:, 0])))


class _RMSNorm(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(c))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class _LlamaLayer(nn.Module):
    def __init__(self, c: int, heads: int, groups: int) -> None:
        super().__init__()
        self.width, self.heads, self.groups = c // heads, heads, groups
        shared = groups * self.width
        self.q, self.k, self.v = (nn.Linear(c, n, bias=False) for n in (c, shared, shared))
        self.o = nn.Linear(c, c, bias=False)
        self.gate, self.up, self.down = (nn.Linear(*io, bias=False) for io in ((c, 3 * c), (c, 3 * c), (3 * c, c)))
        self.norm1, self.norm2 = _RMSNorm(c), _RMSNorm(c)

    def _turn(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        one, two = x[..., : self.width // 2], x[..., self.width // 2 :]
        return x * cos + torch.cat((-two, one), -1) * sin

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        b, n, _ = x.shape
        y = self.norm1(x)
        q = self._turn(self.q(y).view(b, n, self.heads, self.width).transpose(1, 2), cos, sin)
        k = self._turn(self.k(y).view(b, n, self.groups, self.width).transpose(1, 2), cos, sin)
        v = self.v(y).view(b, n, self.groups, self.width).transpose(1, 2)
        each = self.heads // self.groups
        k, v = (
            t[:, :, None].expand(b, self.groups, each, n, self.width).reshape(b, self.heads, n, self.width)
            for t in (k, v)
        )
        weights = (q @ k.transpose(2, 3) * self.width**-0.5 + mask).softmax(-1)
        x = x + self.o((weights @ v).transpose(1, 2).reshape(b, n, self.heads * self.width))
        y = self.norm2(x)
        return x + self.down(functional.silu(self.gate(y)) * self.up(y))


class _Llama(nn.Module):
    def __init__(self, c: int = 24, heads: int = 4, groups: int = 2, tokens: int = 40) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Embedding(tokens, c), _RMSNorm(c), nn.Linear(c, tokens, bias=False)
        self.layers = nn.ModuleList(_LlamaLayer(c, heads, groups) for _ in range(2))
        width = c // heads
        self.register_buffer("speeds", 1e4 ** (-torch.arange(0, width, 2) / width))

    def forward(self, ids: Tensor) -> Tensor:
        n = ids.shape[1]
        turns = torch.arange(n, device=ids.device)[:, None] * self.speeds
        x, angles = self.embed(ids), torch.cat((turns, turns), -1)
        mask = torch.full((n, n), -1e4, device=ids.device).triu(1)
        for layer in self.layers:
            x = layer(x, angles.cos(), angles.sin(), mask)
        return self.head(self.norm(x))


# --- the table --------------------------------------------------------------------------------------------------


class Architecture(NamedTuple):
    """A network, and what it is exported with.

    Attributes:
        make: Builds it.
        inputs: Example inputs by name, with a batch of 2.
        free: Free axes of each input.
    """

    make: Callable[[], nn.Module]
    inputs: dict[str, Tensor]
    free: dict[str, dict[int, str]]


def _image(make: Callable[[], nn.Module], *shape: int) -> Architecture:
    return Architecture(make, {"image": torch.zeros(2, *shape)}, {"image": {0: "batch"}})


_IDS = torch.ones(2, 12, dtype=torch.int64)

ARCHITECTURES = {
    "resnet": _image(resnet, 3, 32, 32),
    "regnet": _image(regnet, 3, 32, 32),
    "mobilenet_v2": _image(mobilenet_v2, 3, 32, 32),
    "mobilenet_v3": _image(mobilenet_v3, 3, 32, 32),
    "efficientnet": _image(efficientnet, 3, 32, 32),
    "densenet": _image(densenet, 3, 32, 32),
    "shufflenet": _image(shufflenet, 3, 32, 32),
    "convnext": _image(convnext, 3, 32, 32),
    "unet": _image(_UNet, 3, 16, 16),
    "yolo": _image(_Yolo, 3, 32, 32),
    "conv_lstm": _image(_ConvLstm, 1, 16, 32),
    "vit": _image(_Vit, 3, 32, 32),
    "bert": Architecture(
        _Bert,
        {"ids": _IDS, "mask": torch.ones_like(_IDS)},
        {"ids": {0: "batch", 1: "tokens"}, "mask": {0: "batch", 1: "tokens"}},
    ),
    "llama": Architecture(_Llama, {"ids": _IDS}, {"ids": {0: "batch", 1: "tokens"}}),
}
