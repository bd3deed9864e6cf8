"""Other people's simulators at the task of simulation.py: run by the interpreter that has them.

`PYTHON benchmarks/_peers.py gossipy 256` prints node-rounds a CPU-second, as JSON. It imports nothing of
p2pfl's, nor of this folder's.
"""

import json
import sys
import time
import types
from typing import Any

FEATURES, HIDDEN, CLASSES, BATCH, HELD, DEGREE = 64, 32, 10, 16, 64, 4
ROUNDS, LEAST = 10, 4.0
"""Rounds that are timed together, and seconds of CPU in all; the quickest counts, as it does for ours."""


def gossipy(nodes: int) -> float:
    """Push gossip on a random 4-regular graph: a node sends its model to one neighbour in each round; whoever
    gets one averages the two and takes a step on 16 of its 64 records. Averages one neighbour, where ours
    averages four.
    """
    sys.modules.setdefault("torchvision", types.ModuleType("torchvision"))  # imported for data sets only
    import networkx as nx  # type: ignore[import-untyped]  # ships no type information
    import numpy as np
    import torch
    from gossipy.core import AntiEntropyProtocol, ConstantDelay, CreateModelMode, StaticP2PNetwork
    from gossipy.model.handler import TorchModelHandler
    from gossipy.model.nn import TorchMLP
    from gossipy.node import GossipNode
    from gossipy.simul import GossipSimulator

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    graph = nx.random_regular_graph(DEGREE, nodes, seed=1)
    network = StaticP2PNetwork(nodes, nx.to_numpy_array(graph, nodelist=range(nodes)).astype(np.int64))

    def node(index: int) -> Any:
        inputs = torch.randn(HELD, FEATURES, generator=generator)
        targets = torch.randint(CLASSES, (HELD,), generator=generator)
        handler = TorchModelHandler(
            TorchMLP(FEATURES, CLASSES, (HIDDEN,), torch.nn.Tanh),
            torch.optim.SGD,
            {"lr": 0.05},
            torch.nn.CrossEntropyLoss(),
            local_epochs=0,  # one step for each model that comes in
            batch_size=BATCH,
            create_model_mode=CreateModelMode.MERGE_UPDATE,
        )
        return GossipNode(index, ((inputs, targets), None), 1, handler, network)

    class NoTest:
        def has_test(self) -> bool:
            return False

    everybody = {index: node(index) for index in range(nodes)}
    simulator = GossipSimulator(
        everybody, NoTest(), delta=1, protocol=AntiEntropyProtocol.PUSH, delay=ConstantDelay(0)
    )
    simulator.init_nodes()
    times: list[float] = []
    while len(times) < 4 or sum(times) < LEAST:
        began = time.process_time()
        simulator.start(ROUNDS)
        times.append(time.process_time() - began)
    return ROUNDS * nodes / min(times)


PEERS = {"gossipy": gossipy}


if __name__ == "__main__":
    found = PEERS[sys.argv[1]](int(sys.argv[2]))
    print("\n" + json.dumps(found))
