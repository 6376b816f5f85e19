"""The pod runner: a node agent that runs the pods of a local cluster's fake nodes as processes, as a kubelet would.

What differs from a kubelet: containers share the host's network (each pod has an address of its own, nothing else),
processes keep the runner's user whatever `runAsUser` says, CPU limits bind nothing, `emptyDir.sizeLimit` is not kept
and `medium: Memory` is a plain directory, and container processes see the host's programs below their private root.
"""
