"""Runs one graph as an app would that has onnxruntime and numpy and nothing of ours.

    python run_ort.py MODEL LIBRARY FEEDS.npz OUT.npy [ADAPTER]

LIBRARY may be empty: a graph without operators of ours. Writes the first output.
"""

import sys

import numpy as np
import onnxruntime as ort


def main(model: str, library: str, feeds: str, out: str, adapter: str = "") -> None:
    options, run_options = ort.SessionOptions(), ort.RunOptions()
    options.log_severity_level = 3  # overridable initializers are warned of one by one
    if library:
        options.register_custom_ops_library(library)
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    if adapter:
        loaded = ort.LoraAdapter()
        loaded.Load(adapter)
        run_options.add_active_adapter(loaded)
    inputs = dict(np.load(feeds))
    np.save(out, session.run([session.get_outputs()[0].name], inputs, run_options)[0])
    print(ort.__version__, sys.version.split()[0], np.__version__)


if __name__ == "__main__":
    main(*sys.argv[1:])
