//! `cargo xtask verifier`: what each program costs the kernel to verify, held against a committed baseline.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use aya::programs::{Program, ProgramInfo};
use aya::{Ebpf, EbpfLoader};
use netns_ebpf_common::btf::{Btf, KERNEL_TYPES};
use netns_ebpf_common::kfunc::{CAST_TO_KERN_CTX, CT_RELEASE, HOST_CONNTRACK, SKB_CT_LOOKUP};
use netns_ebpf_common::skb::{SKB_FIELDS, SkbFields};

use crate::process::Run;
use crate::toolchain::Toolchain;
use crate::{root, setup, workspace};

mod baseline;
mod stack;

use baseline::{Cost, Report};
use stack::Code;

/// Lines at the end of a verifier's complaint that are shown.
const TELLING_LINES: usize = 25;

/// Arguments of `verifier`.
#[derive(clap::Args)]
pub struct Args {
    /// Write the figures to the baseline instead of holding them against it
    #[arg(long)]
    bless: bool,
    /// Load this object instead of building one
    #[arg(long, value_name = "FILE")]
    object: Option<PathBuf>,
}

/// Builds the object, loads its programs, prints the table, and fails if one got too expensive.
pub fn verifier(args: &Args) -> Result<ExitCode> {
    let object = match &args.object {
        Some(object) => object.clone(),
        None => {
            setup::build()?;
            workspace::build_object(&setup::toolchain()?)?
        }
    };
    report(&object, args.bless)?;
    Ok(ExitCode::SUCCESS)
}

/// The same as a step of lint.
pub fn hold_to_baseline(toolchain: &Toolchain) -> Result<()> {
    report(&workspace::build_object(toolchain)?, false)
}

fn report(object: &Path, bless: bool) -> Result<()> {
    if !root::is_root() {
        return report_as_root(object, bless);
    }
    let measured = measure(object)?;
    let path = baseline_path();
    if bless {
        fs::write(&path, measured.to_json()?).with_context(|| format!("cannot write {}", path.display()))?;
        print!("{}", measured.table(None));
        return Ok(());
    }
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let baseline = Report::from_json(&text).with_context(|| format!("{} is not a baseline", path.display()))?;
    print!("{}", measured.table(Some(&baseline)));
    let complaints = measured.complaints(&baseline);
    if !complaints.is_empty() {
        bail!("{}\n(if that is meant: cargo xtask verifier --bless)", complaints.join("\n"));
    }
    Ok(())
}

/// Runs this very command through sudo; the object is built already, by the user.
fn report_as_root(object: &Path, bless: bool) -> Result<()> {
    let exe = std::env::current_exe().context("cannot find this executable")?;
    let exe = exe.to_str().with_context(|| format!("{} is not UTF-8", exe.display()))?;
    let mut command = root::command(exe, "to load the eBPF programs");
    command.args(["verifier", "--object"]).arg(object);
    if bless {
        command.arg("--bless");
    }
    command.run()
}

fn baseline_path() -> PathBuf {
    workspace::root().join("xtask").join("verifier.json")
}

/// Loads every program; what was loaded goes when this function returns, as nothing is pinned or attached.
fn measure(object: &Path) -> Result<Report> {
    let bytes = fs::read(object).with_context(|| format!("cannot read {}", object.display()))?;
    let code = Code::parse(&bytes)?;
    let (linked, skb_fields, host_conntrack) = link(bytes)?;
    let mut ebpf = EbpfLoader::new()
        .override_global(SKB_FIELDS, &skb_fields, true)
        .override_global(HOST_CONNTRACK, &host_conntrack, true)
        .load(&linked)
        .context("the kernel refuses the object's maps")?;
    let names: BTreeSet<String> = ebpf.programs().map(|(name, _)| name.to_owned()).collect();
    if names.is_empty() {
        bail!("{} holds no program", object.display());
    }
    let mut report = Report::of_this_kernel();
    let mut refused = Vec::new();
    for name in names {
        let info = match load(&mut ebpf, &name) {
            Ok(info) => info,
            Err(error) => {
                refused.push(shorten(&name, &format!("{error:#}"), object)?);
                refused.push(code.describe_stack(&name));
                continue;
            }
        };
        let cost = Cost {
            verified_insns: info
                .verified_instruction_count()
                .context("the kernel does not count (5.16 or later does)")?,
            xlated_bytes: info.size_translated().context("the kernel hides the size of the translated program")?,
            stack_bytes: code.stack_bytes(&name).with_context(|| format!("{name} is not in the object"))?,
        };
        if cost.stack_bytes > baseline::MAX_STACK_BYTES {
            eprintln!("{}", code.describe_stack(&name));
        }
        report.programs.insert(name, cost);
    }
    if !refused.is_empty() {
        bail!("{}\n{}", refused.join("\n"), code.suspicion());
    }
    Ok(report)
}

/// Links the object to the running kernel, as `netns up` does.
fn link(mut object: Vec<u8>) -> Result<(Vec<u8>, SkbFields, u8)> {
    let types = fs::read(KERNEL_TYPES).with_context(|| format!("cannot read {KERNEL_TYPES}"))?;
    let btf = Btf::parse(&types).with_context(|| format!("{KERNEL_TYPES} is not type information"))?;
    let cast = btf.function(CAST_TO_KERN_CTX.name).context("the kernel is too old (6.2 or later will do)")?;
    CAST_TO_KERN_CTX.link(&mut object, cast);
    let conntrack = btf.function(SKB_CT_LOOKUP.name).zip(btf.function(CT_RELEASE.name));
    if let Some((lookup, release)) = conntrack {
        SKB_CT_LOOKUP.link(&mut object, lookup);
        CT_RELEASE.link(&mut object, release);
    }
    let skb_fields = SkbFields::find(&btf).context("the kernel's sk_buff has other fields")?;
    Ok((object, skb_fields, conntrack.is_some().into()))
}

/// The end of a verifier's complaint, which is the part that tells; all of it goes to a file beside the object.
fn shorten(program: &str, complaint: &str, object: &Path) -> Result<String> {
    let path = object.with_file_name(format!("{program}.verifier.log"));
    fs::write(&path, complaint).with_context(|| format!("cannot write {}", path.display()))?;
    let lines: Vec<&str> = complaint.lines().collect();
    let telling = lines[lines.len().saturating_sub(TELLING_LINES)..].join("\n");
    Ok(format!("the verifier refuses {program}; all it says is in {}, its last words are:\n{telling}", path.display()))
}

fn load(ebpf: &mut Ebpf, name: &str) -> Result<ProgramInfo> {
    match ebpf.program_mut(name).with_context(|| format!("{name} is not in the object"))? {
        Program::SchedClassifier(program) => {
            program.load()?;
            Ok(program.info()?)
        }
        Program::Xdp(program) => {
            program.load()?;
            Ok(program.info()?)
        }
        Program::CgroupSockAddr(program) => {
            program.load()?;
            Ok(program.info()?)
        }
        other => bail!("{name} is a program of a kind this report does not load yet: {:?}", other.prog_type()),
    }
}
