"""Networks that are hard to shrink, each with two input shapes."""

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["NETWORKS"]

NETWORKS = {}  # name -> (constructor, shapes of the inputs)


def network(*shapes):
    def register(kind):
        NETWORKS[kind.__name__] = (kind, shapes)
        return kind

    return register


def conv_bn(inputs, outputs, kernel=3, **options):
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, bias=False, **options), nn.BatchNorm2d(outputs), nn.ReLU())


IMAGES = (2, 3, 8, 8), (3, 3, 11, 9)


class Layers(nn.Sequential):
    def __init__(self):
        super().__init__(*self.layers())


@network(*IMAGES)
class Plain(Layers):
    def layers(self):
        return conv_bn(3, 12, padding=1), conv_bn(12, 10), nn.MaxPool2d(2), nn.Conv2d(10, 4, 1), nn.Tanh()


@network(*IMAGES)
class PaddedReaders(Layers):
    """Constants behind padding: they are merged, not folded."""

    def layers(self):
        return (
            conv_bn(3, 12, padding=1),
            conv_bn(12, 12, padding=1),
            nn.Conv2d(12, 12, 3, padding=2),
            nn.Sigmoid(),
            nn.Conv2d(12, 5, 5, padding="same", dilation=2),
        )


@network(*IMAGES)
class PaddingModes(Layers):
    def layers(self):
        modes = ("reflect", "circular", "replicate", "zeros")
        return [
            layer
            for mode in modes
            for layer in (
                nn.Conv2d(3 if mode == "reflect" else 10, 10, 3, padding=1, padding_mode=mode),
                nn.BatchNorm2d(10),
                nn.ELU(),
            )
        ]


@network(*IMAGES)
class PaddingLayers(Layers):
    def layers(self):
        pads = (
            nn.ZeroPad2d(1),
            nn.ConstantPad2d(1, 0.5),
            nn.ReflectionPad2d(1),
            nn.ReplicationPad2d((1, 2, 0, 1)),
            nn.CircularPad2d(1),
        )
        return [layer for i, pad in enumerate(pads) for layer in (nn.Conv2d(8 if i else 3, 8, 3), nn.ReLU(), pad)] + [
            nn.Conv2d(8, 4, 3)
        ]


@network(*IMAGES)
class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = conv_bn(3, 12, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(conv_bn(12, 9, padding=1), nn.Conv2d(9, 12, 3, padding=1), nn.BatchNorm2d(12))
            for _ in range(3)
        )
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = F.relu(x + block(x))
        return self.head(x.mean((2, 3)))


@network(*IMAGES)
class PreActivation(Residual):
    """A residual stream with other constants at every reader."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(12), nn.Softplus(), nn.Conv2d(12, 12, 3, padding=1)) for _ in range(3)
        )

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


@network(*IMAGES)
class GroupNorms(Layers):
    def layers(self):
        return (
            nn.Conv2d(3, 12, 3),
            nn.GroupNorm(3, 12),
            nn.ReLU(),
            nn.Conv2d(12, 9, 3),
            nn.GroupNorm(1, 9),
            nn.Conv2d(9, 4, 1),
        )


@network(*IMAGES)
class InstanceNorms(Layers):
    def layers(self):
        return (
            nn.Conv2d(3, 12, 3),
            nn.InstanceNorm2d(12, affine=True),
            nn.ReLU(),
            nn.Conv2d(12, 9, 3),
            nn.InstanceNorm2d(9),
            nn.Conv2d(9, 4, 1),
            nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        )


@network(*IMAGES)
class BatchNormWithout(Layers):
    def layers(self):
        return (
            nn.Conv2d(3, 12, 3, padding=1),
            nn.BatchNorm2d(12, affine=False),
            nn.LeakyReLU(),
            nn.Conv2d(12, 9, 3),
            nn.BatchNorm2d(9, track_running_stats=False),
            nn.Hardswish(),
            nn.Conv2d(9, 4, 1),
        )


@network(*IMAGES)
class ChannelStatistics(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = self.first(x).softmax(1)
        x = F.relu(self.second(x))
        x = x / (x.square().mean(1, keepdim=True) + 1).sqrt()
        x = self.third(x)
        x = x - x.amax(1, keepdim=True) + x.std(1, keepdim=True) + x.sum((2, 3), keepdim=True).tanh()
        return self.last(F.normalize(x, dim=1)), x.argmax(1)


@network(*IMAGES)
class LocalResponse(Layers):
    def layers(self):
        return nn.Conv2d(3, 8, 3), nn.LocalResponseNorm(3), nn.Conv2d(8, 8, 3), nn.Softmax2d(), nn.Conv2d(8, 4, 1)


@network(*IMAGES)
class Grouped(Layers):
    def layers(self):
        return (
            nn.Conv2d(3, 12, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(12, 12, 3, groups=4, padding=1),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.Conv2d(12, 24, 3, groups=12),
            nn.ReLU(),
            nn.Conv2d(24, 6, 1, groups=2, bias=False),
            nn.Conv2d(6, 4, 1),
        )


@network(*IMAGES)
class Depthwise(nn.Module):
    def __init__(self):
        super().__init__()
        self.image = nn.Conv2d(3, 6, 3, groups=3, padding=1)
        self.expand, self.depth, self.project = (
            conv_bn(6, 16, 1),
            conv_bn(16, 16, groups=16, padding=1),
            nn.Conv2d(16, 6, 1),
        )
        self.squeeze, self.excite = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.head = nn.Conv2d(6, 4, 3, padding=1)

    def forward(self, x):
        x = self.image(x)
        y = self.depth(self.expand(x))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        return self.head(x + self.project(y * gate))


@network(*IMAGES)
class ConstantGates(Depthwise):
    def forward(self, x):
        y = self.depth(self.expand(self.image(x)))
        return self.head(self.project(y * F.hardsigmoid(self.excite(F.relu(self.squeeze(y))))))


@network(*IMAGES)
class Shuffle(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 12, 3, groups=3, padding=1)
        self.last = nn.Conv2d(12, 4, 1)

    def forward(self, x):
        x = F.relu(self.first(x))
        n, c, h, w = x.shape
        x = x.view(n, 3, c // 3, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.last(F.channel_shuffle(self.second(x), 2))


@network(*IMAGES)
class Concatenation(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(11, 8, 3, padding=1),
            nn.Conv2d(19, 8, 1),
        )
        self.norm, self.last = nn.BatchNorm2d(27), nn.Conv2d(27, 4, 3, padding=1)

    def forward(self, x):
        first = F.relu(self.first(x))
        both = torch.cat([x, first], 1)
        second = F.relu(self.second(both))
        whole = torch.cat([first, x, second], 1)
        return self.last(F.relu(self.norm(torch.cat([self.third(whole), whole], 1))))


@network(*IMAGES)
class Split(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = (
            nn.Conv2d(3, 12, 3, padding=1),
            nn.Conv2d(6, 6, 3, padding=1),
            nn.Conv2d(12, 4, 1),
        )

    def forward(self, x):
        left, right = self.first(x).chunk(2, 1)
        x = torch.cat([F.relu(self.second(left)), right * left[:, :1]], 1)
        return self.last(x), x[:, 3:5], F.glu(x, 1)


@network(*IMAGES)
class Outputs(nn.Module):
    """Several outputs, in dictionaries and lists, and layers whose output nobody reads."""

    def __init__(self):
        super().__init__()
        self.stem, self.left, self.right, self.unread = (
            conv_bn(3, 10),
            nn.Conv2d(10, 6, 1),
            nn.Conv2d(10, 6, 3),
            nn.Conv2d(10, 7, 1),
        )
        self.never = nn.Linear(4, 4)

    def forward(self, x):
        x = self.stem(x)
        self.unread(x)
        left = self.left(x)
        return {"left": F.relu(left[:, :, 1:]), "more": [self.right(F.relu(x)).mean((2, 3)), 3, None]}


@network(*IMAGES)
class UsedTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.shared, self.norm, self.last = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.Conv2d(8, 4, 1),
        )

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = F.relu(self.norm(self.shared(x)))
        x = F.relu(self.norm(self.shared(x))) + x
        return self.last(x) + self.last(x.flip(2))


@network((2, 6), (5, 6))
class Tied(nn.Module):
    """An autoencoder whose decoder is its encoder, transposed, and a layer under two names."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(6, 10)
        self.hidden = nn.Linear(10, 10)
        self.alias = self.hidden
        self.bias = nn.Parameter(torch.randn(6))

    def forward(self, x):
        x = F.relu(self.encoder(x))
        x = F.relu(self.alias(F.relu(self.hidden(x))))
        return F.linear(x, self.encoder.weight.t(), self.bias) + x @ self.encoder.weight


@network((2, 3, 8, 8), (5, 3, 8, 8))
class Flattened(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.first, self.second = conv_bn(3, 8, stride=2), nn.Linear(72, 20, bias=False), nn.Linear(20, 5)
        self.norm = nn.BatchNorm1d(20)

    def forward(self, x):
        x = self.conv(x)
        return self.second(F.relu(self.norm(self.first(x.view(x.size(0), -1)))))


@network((2, 3, 8, 8), (5, 3, 8, 8))
class WrittenSizes(nn.Module):
    """Numbers of channels in the code: this network can only be shrunk elsewhere."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear, self.last = conv_bn(3, 8, stride=2), nn.Linear(72, 20), nn.Linear(20, 5)

    def forward(self, x):
        x = self.linear(self.conv(x).view(-1, 72))
        return self.last(F.relu(x) * x.shape[1] ** -0.5)


@network(*IMAGES)
class TransposedConvolutions(Layers):
    def layers(self):
        return (
            nn.Conv2d(3, 12, 3),
            nn.ReLU(),
            nn.ConvTranspose2d(12, 10, 3, stride=2, output_padding=1, bias=False),
            nn.BatchNorm2d(10),
            nn.ReLU(),
            nn.ConvTranspose2d(10, 20, 2, stride=2, groups=10),
            nn.ReLU(),
            nn.ConvTranspose2d(20, 8, 3, padding=1, groups=4),
            nn.SiLU(),
            nn.ConvTranspose2d(8, 4, 1),
        )


@network(*IMAGES)
class UpAndDown(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.three, self.four = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(8, 8, 3),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.Conv2d(16, 4, 1),
        )
        self.slope = nn.PReLU(8)

    def forward(self, x):
        top = self.slope(self.one(x))
        y = F.avg_pool2d(F.gelu(self.two(F.max_pool2d(top, 3, 2, 1))), 2, padding=1, ceil_mode=True)
        y = self.three(F.interpolate(y, scale_factor=2.0, mode="bilinear"))
        y = F.interpolate(F.lp_pool2d(y, 2, 2), size=top.shape[2:])
        return self.four(torch.cat([top, F.dropout(y, training=self.training)], 1))


@network((2, 5, 8), (3, 9, 8))
class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 20, batch_first=True, norm_first=True, activation="gelu")
        self.attention, self.norm = nn.MultiheadAttention(8, 2, batch_first=True), nn.LayerNorm(8)
        self.gate, self.up, self.down = nn.Linear(8, 16), nn.Linear(8, 16, bias=False), nn.Linear(16, 8)
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        x = self.layer(x)
        x = x + self.attention(self.norm(x), x, x, need_weights=False)[0]
        x = x + self.down(F.silu(self.gate(x)) * self.up(x))
        return self.last(x[:, 0])


@network((2, 5, 8), (3, 9, 8))
class Heads(nn.Module):
    """Attention by hand, scaled by a width that shrinks with the queries."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.last = (
            nn.Linear(8, 12),
            nn.Linear(8, 12),
            nn.Linear(8, 12),
            nn.Linear(12, 4),
        )

    def forward(self, x):
        query, key, value = self.query(x), self.key(x), self.value(x)
        scores = (query @ key.transpose(1, 2) * query.shape[-1] ** -0.5).softmax(-1)
        return self.last(F.relu(scores @ value))


@network((2, 4, 12), (3, 4, 15))
class Sequences(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = (
            nn.Conv1d(4, 8, 3, padding=1),
            nn.Conv1d(8, 8, 3, groups=8),
            nn.ConvTranspose1d(8, 6, 2),
        )
        self.scale, self.lstm = nn.Parameter(torch.randn(1, 6, 1)), nn.GRU(6, 5, batch_first=True)
        self.last = nn.Linear(6, 3)

    def forward(self, x):
        x = F.avg_pool1d(F.relu(self.one(x)), 2)
        x = self.three(F.relu(self.two(x))) * self.scale
        y = x.transpose(1, 2)
        return self.last(F.relu(y)).amax(1), self.lstm(y)[0].mean(1), y.unsqueeze(1).squeeze(1).flip(1).sum(1)


@network((1, 2, 6, 6, 6), (2, 2, 7, 6, 8))
class Volumes(Layers):
    def layers(self):
        return (
            nn.Conv3d(2, 8, 3, padding=1),
            nn.BatchNorm3d(8),
            nn.ReLU(),
            nn.Dropout3d(),
            nn.MaxPool3d(2),
            nn.Conv3d(8, 8, 1),
            nn.ReLU6(),
            nn.ConvTranspose3d(8, 4, 2, stride=2),
        )


@network(*IMAGES)
class Squeezed(nn.Module):
    """`squeeze` would remove a channel dimension that shrinks to 1; arithmetic with the mean over channels."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.last = nn.Conv2d(3, 6, 3), nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x):
        x = self.one(x).amax((2, 3), keepdim=True).squeeze()
        return self.last(torch.where(x > 0, self.two(x), -x)).masked_fill(x[:, :4] > 1, 0.5)


@network(*IMAGES)
class Conditions(Layers):
    """Conditions of channels that are constant once their filter is zero."""

    def layers(self):
        return nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        one, two, last = self
        x = one(x)
        x = two(torch.where(x > 0, x, x.exp() - 1))
        return last(x.masked_fill(x < 0.1, 0.5))


@network(*IMAGES)
class SlopeOfEachChannel(Layers):
    """PReLU behind layers whose outputs are never constants."""

    def layers(self):
        return (
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8, track_running_stats=False),
            nn.PReLU(8),
            nn.Conv2d(8, 6, 3),
            nn.InstanceNorm2d(6, affine=True),
            nn.PReLU(6),
            nn.Conv2d(6, 4, 1),
        )


@network(*IMAGES)
class Parametrized(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3))
        self.two = nn.utils.parametrizations.spectral_norm(nn.Conv2d(8, 8, 3, padding=1))
        self.mask = nn.Buffer((torch.rand(6, 8, 1, 1) < 0.5).double())
        self.weight, self.last = nn.Parameter(torch.randn(6, 8, 1, 1)), nn.Conv2d(6, 4, 3, padding=1)

    def forward(self, x):
        x = F.relu(self.two(F.relu(self.one(x))))
        return self.last(F.relu(F.conv2d(x, self.weight * self.mask)) + torch.ones(6, 1, 1, dtype=x.dtype))
