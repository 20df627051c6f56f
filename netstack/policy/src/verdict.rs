//! What was decided and by what.

use alloc::string::String;
use core::fmt;

use crate::model::{Direction, PolicyId};

/// What happens to a packet, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// True if it passes.
    pub allow: bool,
    /// What decided.
    pub reason: Reason,
}

/// What decided about a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A rule of a policy.
    Rule {
        /// The policy's tier.
        tier: String,
        /// The policy.
        policy: PolicyId,
        /// Which of its lists.
        direction: Direction,
        /// Which rule of that list, from 0.
        rule: usize,
        /// What the rule's author called it.
        rule_name: Option<String>,
    },
    /// The end of a tier that selects the endpoint, without a rule that matched.
    EndOfTier {
        /// The tier.
        tier: String,
        /// The last of its policies that selects the endpoint.
        policy: Option<PolicyId>,
    },
    /// A rule of a profile.
    Profile {
        /// The profile.
        profile: String,
        /// Which of its lists.
        direction: Direction,
        /// Which rule of that list, from 0.
        rule: usize,
    },
    /// No tier and no profile has decided.
    EndOfProfiles,
    /// A host's failsafe port.
    Failsafe,
    /// Forwarded by a host: no policy decides, or those that apply passed it on.
    NothingForbids {
        /// True if some policies apply.
        policies: bool,
    },
    /// No endpoint, so no policy.
    NoEndpoint,
    /// A packet from a pod to itself does not leave it.
    Itself,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Rule { tier, policy, direction, rule, rule_name } => {
                write!(f, "{policy}, {direction} rule {}", rule + 1)?;
                if let Some(name) = rule_name {
                    write!(f, " ({name})")?;
                }
                write!(f, ", tier {tier}")
            }
            Reason::EndOfTier { tier, policy: Some(policy) } => {
                write!(f, "no rule matches at the end of tier {tier}; {policy} selects the endpoint")
            }
            Reason::EndOfTier { tier, policy: None } => {
                write!(f, "no rule matches at the end of tier {tier}")
            }
            Reason::Profile { profile, direction, rule } => {
                write!(f, "profile {profile}, {direction} rule {}", rule + 1)
            }
            Reason::EndOfProfiles => f.write_str("no policy and no profile allows it"),
            Reason::Failsafe => f.write_str("failsafe port of the host"),
            Reason::NothingForbids { policies: true } => f.write_str("passed on by every tier"),
            Reason::NothingForbids { policies: false } => {
                f.write_str("no policy applies to what the host forwards")
            }
            Reason::NoEndpoint => f.write_str("no endpoint has this address, so no policy applies"),
            Reason::Itself => f.write_str("a pod always reaches itself"),
        }
    }
}
