"""The compiled CPU kernels other than matrix products: C++ sources and their bindings."""
