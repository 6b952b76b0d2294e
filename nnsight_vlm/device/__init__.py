"""The code that travels to the model by source: kernels write, readouts read, the runner carries a plan out."""
