//! Writes the functions that stand in for MLX's until the first call.
//!
//! A program that is linked with `-lmlx` starts only where the dynamic loader finds `libmlx.so`,
//! and a build script cannot put a search path into the programs of the crates that depend on it.
//! So nothing is linked: for every function of MLX that mlx-c calls, the archive gets a jump
//! through a slot. The slots first lead to `mlx_sys_load` in `src/linux/loader.rs`, which opens
//! the library and fills them all.
//!
//! ```text
//! function_i:  jump to slots[i], remembering which slot it was
//! lazy:        save the argument registers, mlx_sys_load(), restore them, jump to that slot
//! ```

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use object::{Architecture, Object as _, ObjectSymbol as _, SymbolKind};

use crate::{Result, cargo_env};

/// Writes `trampolines.S` for all that `objects` need from `library`.
pub(crate) fn write(objects: &[PathBuf], library: &Path, out_dir: &Path) -> Result<PathBuf> {
    let functions = functions_to_bridge(objects, library)?;
    let source = out_dir.join("trampolines.S");
    fs::write(&source, assembly(&functions, &cargo_env("CARGO_CFG_TARGET_ARCH"))?)
        .map_err(|error| format!("cannot write {}: {error}", source.display()))?;
    Ok(source)
}

/// The functions that `objects` use and `library` has, in order.
fn functions_to_bridge(objects: &[PathBuf], library: &Path) -> Result<BTreeSet<String>> {
    let mut used = BTreeSet::new();
    let mut defined = BTreeSet::new();
    for path in objects {
        let data = read(path)?;
        let file = parse(path, &data)?;
        for symbol in file.symbols().filter(|symbol| !symbol.is_local()) {
            let name = symbol.name().unwrap_or_default().to_owned();
            if symbol.is_undefined() {
                used.insert(name)
            } else {
                defined.insert(name)
            };
        }
    }

    let data = read(library)?;
    let file = parse(library, &data)?;
    let expected = match cargo_env("CARGO_CFG_TARGET_ARCH").as_str() {
        "aarch64" => Architecture::Aarch64,
        _ => Architecture::X86_64,
    };
    if file.architecture() != expected {
        return Err(format!(
            "{} is for {:?}, and this build for {expected:?}",
            library.display(),
            file.architecture()
        ));
    }
    let mut functions = BTreeSet::new();
    for symbol in file.dynamic_symbols().filter(|symbol| symbol.is_definition()) {
        let name = symbol.name().unwrap_or_default();
        if used.contains(name) && !defined.contains(name) {
            if symbol.kind() != SymbolKind::Text {
                return Err(format!("mlx-c uses {name}, which is data; only functions can wait"));
            }
            functions.insert(name.to_owned());
        }
    }
    Ok(functions)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

fn parse<'data>(path: &Path, data: &'data [u8]) -> Result<object::File<'data>> {
    object::File::parse(data).map_err(|error| format!("{}: {error}", path.display()))
}

/// The code, a table of names as one run of C strings, the table of slots, and their number.
fn assembly(functions: &BTreeSet<String>, architecture: &str) -> Result<String> {
    let (lazy, jump): (&str, fn(usize) -> String) = match architecture {
        "x86_64" => (X86_64_LAZY, |index| {
            format!("    endbr64\n    lea mlx_sys_slots+{}(%rip), %r11\n    jmp *(%r11)", 8 * index)
        }),
        "aarch64" => (AARCH64_LAZY, |index| {
            let slot = format!("mlx_sys_slots+{}", 8 * index);
            format!(
                "    bti c\n    adrp x16, {slot}\n    add x16, x16, :lo12:{slot}\n    \
                 ldr x17, [x16]\n    br x17"
            )
        }),
        other => return Err(format!("there are no trampolines for {other}")),
    };

    let mut text = format!(".text\n{lazy}\n");
    let mut names = String::new();
    for (index, name) in functions.iter().enumerate() {
        let code = jump(index);
        // Hidden, so that programs do not export functions of MLX to the library itself.
        write!(
            text,
            ".balign 16\n.globl {name}\n.hidden {name}\n.type {name}, %function\n{name}:\n{code}\n\
             .size {name}, . - {name}\n"
        )
        .expect("writing to a string succeeds");
        writeln!(names, "    .asciz \"{name}\"").expect("writing to a string succeeds");
    }
    let count = functions.len();
    Ok(format!(
        "{text}
.section .rodata
.globl mlx_sys_names
.hidden mlx_sys_names
mlx_sys_names:
{names}
.balign 8
.globl mlx_sys_count
.hidden mlx_sys_count
mlx_sys_count:
    .quad {count}

.data
.balign 8
.globl mlx_sys_slots
.hidden mlx_sys_slots
mlx_sys_slots:
    .rept {count}
    .quad mlx_sys_lazy
    .endr

.section .note.GNU-stack, \"\", %progbits
"
    ))
}

/// Arguments travel in six integer and eight vector registers, and `%al` counts the latter for
/// variadic functions. Seven words and the slot leave the stack eight bytes off a multiple of 16.
const X86_64_LAZY: &str = "
mlx_sys_lazy:
    push %rdi
    push %rsi
    push %rdx
    push %rcx
    push %r8
    push %r9
    push %rax
    push %r11
    sub $136, %rsp
    movups %xmm0, (%rsp)
    movups %xmm1, 16(%rsp)
    movups %xmm2, 32(%rsp)
    movups %xmm3, 48(%rsp)
    movups %xmm4, 64(%rsp)
    movups %xmm5, 80(%rsp)
    movups %xmm6, 96(%rsp)
    movups %xmm7, 112(%rsp)
    call mlx_sys_load
    movups (%rsp), %xmm0
    movups 16(%rsp), %xmm1
    movups 32(%rsp), %xmm2
    movups 48(%rsp), %xmm3
    movups 64(%rsp), %xmm4
    movups 80(%rsp), %xmm5
    movups 96(%rsp), %xmm6
    movups 112(%rsp), %xmm7
    add $136, %rsp
    pop %r11
    pop %rax
    pop %r9
    pop %r8
    pop %rcx
    pop %rdx
    pop %rsi
    pop %rdi
    jmp *(%r11)
";

/// Arguments travel in eight integer and eight vector registers, and `x8` says where a large
/// result goes. `x16` holds the slot, as it may between a call and the function called.
const AARCH64_LAZY: &str = "
mlx_sys_lazy:
    bti j
    stp x29, x30, [sp, #-224]!
    mov x29, sp
    stp x0, x1, [sp, #16]
    stp x2, x3, [sp, #32]
    stp x4, x5, [sp, #48]
    stp x6, x7, [sp, #64]
    stp x8, x16, [sp, #80]
    stp q0, q1, [sp, #96]
    stp q2, q3, [sp, #128]
    stp q4, q5, [sp, #160]
    stp q6, q7, [sp, #192]
    bl mlx_sys_load
    ldp q6, q7, [sp, #192]
    ldp q4, q5, [sp, #160]
    ldp q2, q3, [sp, #128]
    ldp q0, q1, [sp, #96]
    ldp x8, x16, [sp, #80]
    ldp x6, x7, [sp, #64]
    ldp x4, x5, [sp, #48]
    ldp x2, x3, [sp, #32]
    ldp x0, x1, [sp, #16]
    ldp x29, x30, [sp], #224
    ldr x17, [x16]
    br x17
";
