//! Measures the dataplane: clocks per packet, for each node and in total, on in-memory ports in one pinned thread.
//!
//! Main path:
//! 1. [`workload::all`] lists what can be measured;
//! 2. [`rig::Rig`] builds a router of two ports for one of them: route tables, adjacencies, a worker;
//! 3. [`generator::Generator`] makes frames of the table and destinations in [`routes`]; the ports in `port` feed them to the
//!    router, and take back what it sends;
//! 4. [`measure::run`] polls the worker in many short rounds and keeps the best;
//! 5. [`report`] prints a table, and JSON.
//!
//! [`esp`] has routers of its own, with IPsec tunnels, and [`lb`] with services. [`aead`] and [`policy`] are apart from that:
//! the cipher alone, and the classifier alone, without a router.
//!
//! Clocks are those of the time stamp counter. The total of a row is what [`dataplane::Worker::poll`] takes, all of it, without
//! the generator's own time: nodes from ethernet-input to the frames' return to the pool, the graph around them, and
//! the look at the second port, which has nothing. Clocks of a node are what the worker's own counters say; of small vectors,
//! which are timed only now and then, they contain the time that reading the clock takes.
//!
//! A row is only printed if as many packets left as came and nothing was dropped or punted.
//!
//! What it does not do: measure devices, or several workers.

pub mod aead;
pub mod calibration;
pub mod counters;
pub mod esp;
pub mod generator;
pub mod lb;
pub mod measure;
pub mod policy;
mod port;
pub mod report;
pub mod rig;
pub mod routes;
pub mod workload;
