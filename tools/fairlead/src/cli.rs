//! Every command and flag. Help texts are the doc comments.

use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::lb::LbArgs;
use crate::policy::PolicyCommand;
use crate::run::RunArgs;

/// Manages Fairlead nodes, and runs the dataplane as a Linux process.
#[derive(Debug, Parser)]
#[command(name = "fairlead", version, about, disable_help_subcommand = true, after_help = AFTER_HELP)]
pub struct Cli {
    /// The node and how to show what it says.
    #[command(flatten)]
    pub global: Global,
    /// When to use colours.
    #[arg(long, global = true, value_enum, default_value_t = ColourWhen::Auto, value_name = "WHEN")]
    pub color: ColourWhen,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "\
Exit codes: 0 done, 1 the operation failed, 2 wrong usage, 3 a document is not valid,
4 the node does not answer, 5 the node refuses the token.";

/// Flags that every command takes.
#[derive(Debug, Args)]
pub struct Global {
    /// Node to talk to: `HOST`, `HOST:PORT`, `[ADDRESS]:PORT` for IPv6 or `http://HOST:PORT` [env: `FAIRLEAD_NODE`]
    #[arg(short, long, global = true, value_name = "ADDRESS", conflicts_with = "context")]
    pub node: Option<String>,
    /// API token of the node [env: `FAIRLEAD_TOKEN`]
    #[arg(long, global = true, value_name = "TOKEN")]
    pub token: Option<String>,
    /// Named node of the contexts file (see `fairlead context`) [env: `FAIRLEAD_CONTEXT`]
    #[arg(short, long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// How to show results
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub output: Format,
}

/// How results are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns for people.
    Table,
    /// What the API said, indented.
    Json,
    /// The same as YAML.
    Yaml,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ColourWhen {
    /// On a terminal, unless `NO_COLOR` is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show what the node is, how long it runs and how it fares
    Status,
    /// Show one kind of thing the node has
    Get(GetArgs),
    /// Give the node a configuration, which replaces the whole of the one before, or Kubernetes and Calico objects, or both
    Apply(ApplyArgs),
    /// Remove Kubernetes and Calico objects from the node
    Delete(DeleteArgs),
    /// Keep the configuration that waits for confirmation
    Confirm,
    /// Return at once to the configuration before the one that waits for confirmation
    Rollback,
    /// Write the running configuration to the node's store, so that it survives a restart
    Save,
    /// Check a configuration, or convert it
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Show live rates: interfaces, drops by reason, workers
    Top(TopArgs),
    /// Record the way of the next packets through the graph and show it
    Trace(TraceArgs),
    /// Show flows that begin, are denied or end, and what decided; followed from the first time on that they are asked for
    Flows(FlowsArgs),
    /// Show the node's log
    Logs(LogsArgs),
    /// Look at the load balancer; without a command, its services and backends live
    Lb(LbArgs),
    /// Add, remove and load dynamic routes
    #[command(subcommand)]
    Routes(RoutesCommand),
    /// Look at IPsec tunnels and associations, and verify what is encrypted
    #[command(subcommand)]
    Ipsec(IpsecCommand),
    /// Check network policies and ask what they allow, without a node
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Restart the node
    Reboot {
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Show the record of the last crash
    Crash,
    /// Run the dataplane, the router and the API as a process of this machine
    Run(RunArgs),
    /// Name nodes with their tokens, so that commands are short
    #[command(subcommand)]
    Context(ContextCommand),
    /// Print the completion script of a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Show the version of this command, and of the node if one is named
    Version,
}

/// `fairlead get`.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// What to show: something of the node, or a kind of Kubernetes or Calico object such as `services` or `networkpolicies`
    #[arg(value_parser = what())]
    pub what: What,
    /// Only rows that contain this text in some column
    pub filter: Option<String>,
}

/// What `fairlead get` is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Something of the node itself.
    Of(Resource),
    /// Objects of this kind.
    Objects(String),
}

/// Kinds of objects, several and one; kinds of different groups can have the same name.
const KINDS: [(&str, &str); 21] = [
    ("namespaces", "namespace"),
    ("nodes", "node"),
    ("serviceaccounts", "serviceaccount"),
    ("pods", "pod"),
    ("services", "service"),
    ("endpointslices", "endpointslice"),
    ("networkpolicies", "networkpolicy"),
    ("adminnetworkpolicies", "adminnetworkpolicy"),
    ("baselineadminnetworkpolicies", "baselineadminnetworkpolicy"),
    ("clusternetworkpolicies", "clusternetworkpolicy"),
    ("tiers", "tier"),
    ("profiles", "profile"),
    ("felixconfigurations", "felixconfiguration"),
    ("hostendpoints", "hostendpoint"),
    ("workloadendpoints", "workloadendpoint"),
    ("networksets", "networkset"),
    ("globalnetworksets", "globalnetworkset"),
    ("globalnetworkpolicies", "globalnetworkpolicy"),
    ("stagednetworkpolicies", "stagednetworkpolicy"),
    ("stagedglobalnetworkpolicies", "stagedglobalnetworkpolicy"),
    ("stagedkubernetesnetworkpolicies", "stagedkubernetesnetworkpolicy"),
];

fn what() -> impl TypedValueParser<Value = What> {
    let of_node = Resource::value_variants().iter().filter_map(ValueEnum::to_possible_value);
    let objects = KINDS.iter().map(|(many, one)| PossibleValue::new(many).alias(*one));
    PossibleValuesParser::new(of_node.chain(objects))
        .map(|word| Resource::from_str(&word, true).map_or(What::Objects(word), What::Of))
}

/// What of the node itself `fairlead get` can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Resource {
    /// The running configuration.
    Config,
    /// Interfaces with addresses, link and counters.
    #[value(alias = "interface", alias = "if")]
    Interfaces,
    /// Routes.
    #[value(alias = "route")]
    Routes,
    /// ARP and neighbour discovery entries.
    #[value(alias = "neighbour", alias = "neighbors", alias = "neighbor")]
    Neighbours,
    /// Counters of every interface and node.
    #[value(alias = "counter")]
    Counters,
    /// Dropped packets by reason.
    #[value(alias = "drop")]
    Drops,
    /// The log.
    #[value(alias = "logs")]
    Log,
    /// The last crash.
    Crash,
}

/// `fairlead apply`.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// Files in YAML or JSON, or directories of them; `-` is standard input
    #[arg(short, long, value_name = "FILE", required = true, num_args = 1..)]
    pub file: Vec<PathBuf>,
    /// Objects that the node has and the files have not are removed
    #[arg(long)]
    pub prune: bool,
    /// Write configuration and objects to the node's store afterwards, so that they survive a restart
    #[arg(long, conflicts_with = "confirm")]
    pub save: bool,
    /// Change nothing: let the node check it, and show what would change
    #[arg(long)]
    pub dry_run: bool,
    /// Return to the old configuration unless `fairlead confirm` follows within this time
    #[arg(long, value_name = "SECONDS", conflicts_with = "dry_run", value_parser = clap::value_parser!(u32).range(5..=3600))]
    pub confirm: Option<u32>,
    /// Do not show the difference
    #[arg(short, long)]
    pub quiet: bool,
}

/// `fairlead delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// Files in YAML or JSON, or directories of them, whose objects are removed; `-` is standard input
    #[arg(short, long, value_name = "FILE", required = true, num_args = 1..)]
    pub file: Vec<PathBuf>,
    /// Change nothing: show what would be removed
    #[arg(long)]
    pub dry_run: bool,
}

/// `fairlead config`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check a file without a node
    Validate {
        /// File in YAML or JSON; `-` is standard input
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Print a YAML or JSON file as JSON, the form a node boots with (or as YAML with `-o yaml`)
    Convert {
        /// File in YAML or JSON; `-` is standard input
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
    },
}

/// `fairlead top`.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Print one measurement and end
    #[arg(long)]
    pub once: bool,
    /// Time between two measurements
    #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub interval: f64,
}

/// `fairlead trace`.
#[derive(Debug, Args)]
pub struct TraceArgs {
    /// How many packets to record
    #[arg(short = 'N', long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub count: u32,
    /// Only what comes in for this interface
    #[arg(short, long, value_name = "NAME")]
    pub interface: Option<String>,
    /// Only from or to this address or network
    #[arg(short = 'p', long, value_name = "ADDRESS[/LENGTH]")]
    pub prefix: Option<String>,
    /// Only this protocol above IP: tcp, udp, icmp, icmpv6, esp, sctp or a number
    #[arg(long, value_name = "PROTOCOL", value_parser = protocol)]
    pub protocol: Option<u8>,
    /// Only from or to this port
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Only packets that are dropped, for this reason if one is given: where, not their way
    #[arg(short, long, value_name = "REASON", num_args = 0..=1, default_missing_value = "")]
    pub dropped: Option<String>,
    /// Give up waiting for packets after this time
    #[arg(short, long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub timeout: f64,
}

/// A protocol above IP by name or number.
fn protocol(text: &str) -> Result<u8, String> {
    match text {
        "icmp" => Ok(1),
        "tcp" => Ok(6),
        "udp" => Ok(17),
        "esp" => Ok(50),
        "icmpv6" => Ok(58),
        "sctp" => Ok(132),
        _ => text.parse().map_err(|_| "neither a known protocol nor a number up to 255".into()),
    }
}

/// `fairlead flows`.
#[derive(Debug, Args)]
pub struct FlowsArgs {
    /// Go on showing flows as they come
    #[arg(short, long)]
    pub follow: bool,
    /// Only what is let pass, or what is denied
    #[arg(long, value_parser = ["allow", "deny"])]
    pub verdict: Option<String>,
    /// Only from or to endpoints of this namespace
    #[arg(long)]
    pub namespace: Option<String>,
    /// Only from or to this endpoint: `NAMESPACE/POD`, or a host endpoint
    #[arg(short, long)]
    pub endpoint: Option<String>,
    /// Only from or to this address or network
    #[arg(short, long)]
    pub address: Option<String>,
    /// Only this protocol
    #[arg(long, value_parser = ["tcp", "udp", "sctp", "icmp"])]
    pub protocol: Option<String>,
    /// Only from or to this port
    #[arg(long)]
    pub port: Option<u16>,
    /// Only what this policy has decided: `NAME` or `NAMESPACE/NAME`
    #[arg(long)]
    pub policy: Option<String>,
}

/// `fairlead logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Go on showing lines as they come
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last lines
    #[arg(short = 'N', long, value_name = "LINES")]
    pub tail: Option<usize>,
    /// Only lines that contain this text
    #[arg(value_name = "TEXT")]
    pub containing: Option<String>,
}

/// `fairlead ipsec`.
#[derive(Debug, Subcommand)]
pub enum IpsecCommand {
    /// Show tunnels with their counters and last errors
    Tunnels,
    /// Show security associations, without keys
    Associations,
    /// Show what happened to associations
    Events,
    /// Say whether traffic to a network leaves encrypted, and by which association; fails if it is not sure to
    Verify {
        /// Network of destinations, such as 10.9.0.0/16
        prefix: String,
    },
}

/// `fairlead routes`.
#[derive(Debug, Subcommand)]
pub enum RoutesCommand {
    /// Add a route, or replace the dynamic route of the same prefix
    Add(RouteArgs),
    /// Remove a dynamic route
    #[command(alias = "delete")]
    Del {
        /// Prefix, such as 10.1.0.0/16
        prefix: String,
    },
    /// Add and remove many routes from a file of one JSON object a line
    Load {
        /// File; `-` is standard input
        file: PathBuf,
    },
}

/// `fairlead routes add`.
#[derive(Debug, Args)]
pub struct RouteArgs {
    /// Prefix, such as 10.1.0.0/16
    pub prefix: String,
    /// Next hop: ADDRESS, ADDRESS%INTERFACE for link-local ones; repeat for several
    #[arg(long, required_unless_present = "blackhole", value_name = "ADDRESS")]
    pub via: Vec<String>,
    /// Drop what matches
    #[arg(long, conflicts_with = "via")]
    pub blackhole: bool,
}

/// `fairlead context`.
#[derive(Debug, Subcommand)]
pub enum ContextCommand {
    /// Show the named nodes
    List,
    /// Name the node given by --node and --token
    Set {
        /// Name
        name: String,
    },
    /// Choose the node that commands without --node talk to
    Use {
        /// Name
        name: String,
    },
    /// Forget a node
    Remove {
        /// Name
        name: String,
    },
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.1..=3600.0).contains(&value) => Ok(value),
        _ => Err("give seconds from 0.1 to 3600".into()),
    }
}

#[cfg(test)]
mod documented;

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn every_kind_can_be_asked_for() {
        for kind in resources::Kind::all() {
            let words = super::KINDS.iter().find(|(many, one)| kind.is_called(many) && kind.is_called(one));
            assert!(words.is_some(), "{}", kind.name());
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
