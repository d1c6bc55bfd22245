//! The binary index files of kmod (`modules.dep.bin` and its like).
