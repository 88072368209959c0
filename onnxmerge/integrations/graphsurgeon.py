"""Export a graph of onnx-graphsurgeon with the metadata and doc strings of the models that it came from.

`onnxmerge.compress` and `onnxmerge.inspect` take graphs of onnx-graphsurgeon as they are.

Example:
    ::

        import onnx
        import onnx_graphsurgeon as gs

        import onnxmerge
        from onnxmerge.integrations.graphsurgeon import export_onnx

        model = onnx.load("in.onnx")
        graph = gs.import_onnx(model)
        ...  # fuse nodes to plug-ins
        result = onnxmerge.compress(graph, ratio=0.3, verify=False)
        onnx.save(export_onnx(result.to_graphsurgeon(), result.model, model), "out.onnx")
"""

from __future__ import annotations

from onnxmerge.graph import export_graph as export_onnx

__all__ = ["export_onnx"]
