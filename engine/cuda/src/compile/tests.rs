use super::*;
use crate::emulator::load_compiler;

/// What the compiler said of each kernel: its name, registers, bytes of shared memory and bytes of spills.
fn resources(log: &str) -> Vec<(String, u32, u32, u32)> {
    let number_before = |line: &str, unit: &str| {
        let (before, _) = line.split_once(unit)?;
        before.trim_end().rsplit(' ').next()?.parse().ok()
    };
    let mut kernels: Vec<(String, u32, u32, u32)> = Vec::new();
    for line in log.lines() {
        if let Some((_, name)) = line.split_once("Compiling entry function '") {
            let name = name.split('\'').next().unwrap_or_default();
            kernels.push((name.to_owned(), 0, 0, 0));
        }
        let Some(kernel) = kernels.last_mut() else { continue };
        if let Some(spilled) = number_before(line, "bytes spill stores") {
            kernel.3 = spilled;
        }
        if let Some(registers) = number_before(line, "registers") {
            kernel.1 = registers;
            kernel.2 = number_before(line, "bytes smem").unwrap_or_default();
        }
    }
    kernels
}

#[test]
fn every_kernel_compiles_for_an_a100_and_an_h100_without_spilling_registers() {
    if !load_compiler() {
        return;
    }
    for (head, group) in [(64, 3), (128, 4), (128, 8), (256, 2)] {
        let specialisation = Specialisation { head, group };
        for capability in [ComputeCapability(8, 0), ComputeCapability(9, 0)] {
            let image = compile(&specialisation, capability).unwrap();
            assert!(image.code.starts_with(b"\x7fELF"));
            let mut kernels = resources(&image.log);
            kernels.sort();
            let names: Vec<&str> = kernels.iter().map(|kernel| kernel.0.as_str()).collect();
            let mut expected = crate::kernels::NAMES.to_vec();
            expected.sort_unstable();
            assert_eq!(names, expected, "{}", image.log);
            for (name, registers, shared, spilled) in &kernels {
                eprintln!("head {head} group {group} sm {capability} {name}: {registers} registers, {shared} shared");
                assert_eq!(*spilled, 0, "{name} spills for {capability} with heads of {head}");
            }
        }
    }
}

#[test]
fn a_source_that_is_no_program_fails_with_the_compilers_words() {
    if !load_compiler() {
        return;
    }
    let error = compile_source("int f() { return undeclared; }", &[], OLDEST).unwrap_err();
    assert!(error.to_string().contains("undeclared"), "{error}");
}

#[test]
fn a_gpu_that_is_too_old_is_refused_before_the_compiler_is_asked() {
    let error = compile_source("", &[], ComputeCapability(7, 5)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the GPU has the compute capability 7.5; the kernels need 8.0 at least"
    );
}
