"""onnxmerge inside other tools; each module needs the package that it is named after, an extra of onnxmerge.

* `graphsurgeon`: export of an onnx-graphsurgeon graph without loss;
* `ir`: a pass of onnx-ir;
* `optimum`: a command of optimum-cli;
* `olive`: a pass of Olive.

Nothing in onnxmerge imports these modules.
"""
