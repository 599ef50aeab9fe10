"""Formats of exported networks, one per file.

To add a format, write `NAME.py` in this folder with a class that derives from `Format` of
`trainables.pruning.exporting.format`, as the only entry of `__all__`. The file is found by its name; `sweeps export
--format NAME` writes it.

    class Example(Format):
        file = "model.example"

        def write(self, folder): ...  # folder / file, from self.network
        def run(self, folder, inputs): ...  # the outputs of the written file, computed from it alone

`run` must not use the network in memory, since its outputs are compared with those of that network.
"""
