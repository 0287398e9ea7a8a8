.PHONY: help build test test-all bench lint asm clean

help:            ## list the targets
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

build:           ## build in place, with everything that tests need
	pip install -e ".[test]"

test:            ## the suite with the best instruction set
	python -m pytest

test-all:        ## the suite with every instruction set of this machine
	for isa in $$(python -c 'from fastconv._kernels import dispatch; print(*dispatch.supported())'); do \
	    echo "== $$isa" && FASTCONV_ISA=$$isa python -m pytest -q || exit 1; done

bench:           ## every operation against its NumPy twin
	python -m pytest benchmarks/ --benchmark-only

lint:            ## ruff and cython-lint
	ruff check . && ruff format --check . && cython-lint fastconv/_kernels

asm:             ## the assembly of the widest tile, for a look at its inner loop
	mkdir -p build
	$(CC) -O3 -std=gnu11 -ffp-contract=fast -fno-math-errno -fno-trapping-math -mavx512f -mavx512dq -mavx512bw -mavx512vl -mfma -mprfchw \
	    -mprefer-vector-width=512 -DFC_ISA=avx512 -S -o build/kernels.s src_c/kernels.c
	awk '/^fc_tile_6x4_f32_avx512:/ { on = 1 } on { print } on && /\.cfi_endproc/ { exit }' build/kernels.s

clean:           ## remove what was built
	rm -rf build dist *.egg-info fastconv/_kernels/*.so
