"""Networks laid out and named as other projects' checkpoints are, with random weights."""

import math

import torch
import torch.nn.functional as F
from torch import nn


def conv(inputs, outputs, kernel=3):
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


def shuffles(features, scale):
    factors = [scale] if scale == 3 else [2] * int(math.log2(scale))
    return [layer for r in factors for layer in (conv(features, features * r * r), nn.PixelShuffle(r))]


class Residual(nn.Module):
    def __init__(self, features, name, scale=1.0):
        super().__init__()
        self.scale = scale
        setattr(self, name, nn.Sequential(conv(features, features), nn.ReLU(), conv(features, features)))

    def forward(self, x):
        return x + self.scale * next(self.children())(x)


class EDSR(nn.Module):
    """As in EDSR's own code; images in 0…255."""

    def __init__(self, scale, features=6, blocks=2, residual_scale=1.0, mean=(0.1, 0.2, 0.3)):
        super().__init__()
        self.sub_mean, self.add_mean = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        for shift, sign in ((self.sub_mean, -255.0), (self.add_mean, 255.0)):
            shift.weight.data = torch.eye(3).view(3, 3, 1, 1)
            shift.bias.data = sign * torch.tensor(mean)
        self.head = nn.Sequential(conv(3, features))
        residuals = [Residual(features, "body", residual_scale) for _ in range(blocks)]
        self.body = nn.Sequential(*residuals, conv(features, features))
        self.tail = nn.Sequential(nn.Sequential(*shuffles(features, scale)), conv(features, 3))

    def forward(self, x):
        x = self.head(self.sub_mean(x))
        return self.add_mean(self.tail(x + self.body(x)))


class MSRResNet(nn.Module):
    """As in BasicSR."""

    def __init__(self, scale, features=6, blocks=2):
        super().__init__()
        self.scale = scale
        self.conv_first = conv(3, features)
        self.body = nn.ModuleList(
            nn.ModuleDict({n: conv(features, features) for n in ("conv1", "conv2")}) for _ in range(blocks)
        )
        for i, layer in enumerate(shuffles(features, scale)[::2]):
            setattr(self, f"upconv{i + 1}", layer)
        self.conv_hr, self.conv_last = conv(features, features), conv(features, 3)

    def forward(self, lr):
        x = F.leaky_relu(self.conv_first(lr), 0.1)
        for block in self.body:
            x = x + block["conv2"](F.relu(block["conv1"](x)))
        for i in range(2 if self.scale == 4 else 1):
            x = getattr(self, f"upconv{i + 1}")(x)
            x = F.leaky_relu(F.pixel_shuffle(x, 3 if self.scale == 3 else 2), 0.1)
        base = F.interpolate(lr, scale_factor=self.scale, mode="bilinear")
        return base + self.conv_last(F.leaky_relu(self.conv_hr(x), 0.1))


class Shortcut(nn.Module):
    def __init__(self, sub):
        super().__init__()
        self.sub = sub

    def forward(self, x):
        return x + self.sub(x)


class RankSRGAN(nn.Module):
    """As in RankSRGAN's first code: numbers for names."""

    def __init__(self, scale, features=6, blocks=2):
        super().__init__()
        trunk = nn.Sequential(*(Residual(features, "res") for _ in range(blocks)), conv(features, features))
        ups = shuffles(features, scale)
        ups = [layer for i in range(0, len(ups), 2) for layer in (*ups[i : i + 2], nn.ReLU())]
        ends = (conv(features, features), nn.ReLU(), conv(features, 3))
        self.model = nn.Sequential(conv(3, features), Shortcut(trunk), *ups, *ends)

    def forward(self, x):
        return self.model(x)

    def state_dict_of_later_code(self):
        old = self.state_dict()
        layers = dict.fromkeys(name.rpartition(".")[0] for name in old)
        blocks = sum(".res.0" in name for name in layers)
        ups = ["upconv1", "upconv2"][: len(layers) - 2 * blocks - 4]
        trunk = [f"recon_trunk.{i}.conv{j}" for i in range(blocks) for j in (1, 2)]
        names = ["conv_first", *trunk, "LRconv", *ups, "HRconv", "conv_last"]
        return {
            f"{n}.{part}": old[f"{o}.{part}"] for o, n in zip(layers, names, strict=True) for part in ("weight", "bias")
        }


class DenseLayer(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv = nn.Sequential(conv(inputs, outputs), nn.ReLU())

    def forward(self, x):
        return torch.cat((x, self.conv(x)), 1)


class RDB(nn.Module):
    def __init__(self, features, growth, layers):
        super().__init__()
        self.convs = nn.Sequential(*(DenseLayer(features + i * growth, growth) for i in range(layers)))
        self.LFF = conv(features + layers * growth, features, 1)

    def forward(self, x):
        return x + self.LFF(self.convs(x))


class RDN(nn.Module):
    """As in EDSR's own code; images in 0…255. With `width` = features, the layers are those of other ports."""

    def __init__(self, scale, features=6, growth=4, blocks=2, layers=3, width=4):
        super().__init__()
        self.SFENet1, self.SFENet2 = conv(3, features), conv(features, features)
        self.RDBs = nn.ModuleList(RDB(features, growth, layers) for _ in range(blocks))
        self.GFF = nn.Sequential(conv(blocks * features, features, 1), conv(features, features))
        ups, inputs = [], features
        for r in [3] if scale == 3 else [2] * int(math.log2(scale)):
            ups += [conv(inputs, width * r * r), nn.PixelShuffle(r)]
            inputs = width
        self.UPNet = nn.Sequential(*ups, conv(width, 3))

    def forward(self, x):
        start = self.SFENet1(x)
        x, outputs = self.SFENet2(start), []
        for block in self.RDBs:
            x = block(x)
            outputs.append(x)
        return self.UPNet(start + self.GFF(torch.cat(outputs, 1)))


def srcnn(channels, widths=(5, 4), kernels=(9, 1, 5)):
    """State dict of a port of SRCNN."""
    sizes = (channels, *widths, channels)
    layers = {f"conv{i + 1}": conv(sizes[i], sizes[i + 1], k) for i, k in enumerate(kernels)}
    return nn.ModuleDict(layers).state_dict()
