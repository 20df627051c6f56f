//! Objects become frontends and pools.

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use config::{HealthCheck, member};
use ipnet::IpNet;
use maglev::TableSize;
use pace::Pace;

use crate::annotation;
use crate::check_service::family;
use crate::endpoints;
use crate::object::{
    AddressType, EndpointSlice, IpFamily, IpMode, Service, ServicePort, ServiceSpec, ServiceType,
    SessionAffinity, TrafficPolicy,
};
use crate::objects::{Fault, Objects, Source};
use crate::virtual_service::{
    Affinity, Compiled, Exposure, Forwarding, Frontend, Pool, PoolKey, Protocol, Scope, Site,
};

/// `timeoutSeconds` where there is none: three hours.
const DEFAULT_TIMEOUT_SECONDS: u32 = 10_800;
/// The label by which a slice says whose endpoints it has.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Who has an address (none for node ports), port and protocol.
type Claims<'a> = BTreeMap<(Option<IpAddr>, u16, Protocol), &'a Source>;

/// Compiles all objects as `site` sees them. The result does not depend on the order in which objects were added,
/// besides its own order.
///
/// # Errors
/// What is impossible between objects: two services of one name, two that claim one address, port and protocol.
pub fn compile(objects: &Objects, site: &Site) -> Result<Compiled, Vec<Fault>> {
    pace::at_once(|pace| async move { compile_paced(objects, site, &pace).await })
}

/// Endpoints that are looked at for a unit of work.
const ENDPOINTS_PER_UNIT: usize = 4;

/// The same in short pieces.
///
/// # Errors
/// As [`compile`].
pub async fn compile_paced(objects: &Objects, site: &Site, pace: &Pace) -> Result<Compiled, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut compiled = Compiled::default();
    let mut slices: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
    for (number, (_, slice)) in objects.slices.iter().enumerate() {
        if number % ENDPOINTS_PER_UNIT == 0 {
            pace.spend(1).await;
        }
        if let Some(service) = slice.metadata.label(SERVICE_NAME) {
            slices.entry((slice.metadata.namespace(), service)).or_default().push(&**slice);
        }
    }
    let mut services = BTreeMap::new();
    let mut claims = Claims::new();
    for (source, service) in &objects.services {
        let key = (service.metadata.namespace(), service.metadata.name.as_str());
        if services.insert(key, ()).is_some() {
            let message = format!("is the name of another service of namespace {} too", key.0);
            faults.push(source.fault("/metadata/name", message));
            continue;
        }
        let slices = slices.get(&key).map(Vec::as_slice).unwrap_or_default();
        let (first, first_pool) = (compiled.frontends.len(), compiled.pools.len());
        let endpoints: usize = slices.iter().map(|slice| slice.endpoints.as_ref().map_or(0, Vec::len)).sum();
        let ports = service.spec.ports.as_ref().map_or(0, Vec::len);
        pace.spend(1 + (ports * endpoints / ENDPOINTS_PER_UNIT) as u64).await;
        let health_check = annotation::health_check(&service.metadata, &site.health_check);
        Compiler { service, slices, site, compiled: &mut compiled, health_check }.compile();
        if let Some((port, other)) = compiled.pools[first_pool..].iter().find_map(ports_apart) {
            let message = format!(
                "leaves ports as they are, and the service's port {port} has endpoints at port {other}"
            );
            faults.push(source.fault(&member("/metadata/annotations", annotation::FORWARDING), message));
        }
        for frontend in &compiled.frontends[first..] {
            let protocol = compiled.pools[frontend.pool].key.protocol;
            let claim = (frontend.address, frontend.port, protocol);
            // Of one service's own addresses the first counts: clients cannot tell which they used.
            if claims.insert(claim, source).is_some_and(|other| other != source) {
                let place =
                    frontend.address.map_or("the node port".to_owned(), |address| format!("{address}"));
                let message = format!("{place} port {} {protocol} is another service's too", frontend.port);
                faults.push(source.fault("/spec", message));
            }
        }
    }
    if faults.is_empty() { Ok(compiled) } else { Err(faults) }
}

/// One service on its way.
struct Compiler<'a> {
    service: &'a Service,
    slices: &'a [&'a EndpointSlice],
    site: &'a Site,
    compiled: &'a mut Compiled,
    health_check: Arc<HealthCheck>,
}

impl Compiler<'_> {
    fn compile(mut self) {
        let spec = &self.service.spec;
        let is_headless = spec.cluster_ip.as_deref() == Some("None");
        if spec.service_type == ServiceType::ExternalName || is_headless {
            return;
        }
        let internal = scope(spec.internal_traffic_policy);
        let external = scope(spec.external_traffic_policy);
        for port in spec.ports.as_deref().unwrap_or_default() {
            for family in self.families() {
                // A service's pool is there even before it has an address.
                let _ = self.pool(port, family, internal);
                for (exposure, address) in addresses(self.service, family) {
                    let scope = if exposure == Exposure::ClusterIp { internal } else { external };
                    self.frontend(exposure, Some(address), port.port, (port, family, scope));
                }
                if let Some(node_port) = port.node_port.filter(|port| *port != 0) {
                    self.frontend(Exposure::NodePort, None, node_port, (port, family, external));
                }
            }
        }
    }

    /// The families of the service; as long as it has no addresses and does not say, those of its endpoints.
    fn families(&self) -> Vec<IpFamily> {
        let named = self.service.spec.ip_families.iter().flatten().copied();
        let given =
            [IpFamily::V4, IpFamily::V6].into_iter().filter(|f| !addresses(self.service, *f).is_empty());
        let mut families: Vec<IpFamily> = named.chain(given).collect();
        if families.is_empty() {
            families.extend(self.slices.iter().filter_map(|slice| match slice.address_type {
                AddressType::V4 => Some(IpFamily::V4),
                AddressType::V6 => Some(IpFamily::V6),
                AddressType::Name => None,
            }));
        }
        families.sort_unstable();
        families.dedup();
        families
    }

    fn frontend(
        &mut self,
        exposure: Exposure,
        address: Option<IpAddr>,
        number: u16,
        (port, family, scope): (&ServicePort, IpFamily, Scope),
    ) {
        let pool = self.pool(port, family, scope);
        let source_ranges = match exposure {
            Exposure::LoadBalancer => source_ranges(&self.service.spec),
            _ => Vec::new(),
        };
        self.compiled.frontends.push(Frontend { exposure, address, port: number, pool, source_ranges });
    }

    /// Index of the pool for a port, family and scope, made when it is first asked for.
    fn pool(&mut self, port: &ServicePort, family: IpFamily, scope: Scope) -> usize {
        let metadata = &self.service.metadata;
        let key = PoolKey {
            namespace: metadata.namespace().to_owned(),
            service: metadata.name.clone(),
            port: port.port,
            protocol: port.protocol,
            family,
            scope,
        };
        // Those of this service are the last few.
        let known = self
            .compiled
            .pools
            .iter()
            .rev()
            .take_while(|pool| pool.key.service == key.service && pool.key.namespace == key.namespace);
        if let Some(back) = known.take(4).position(|pool| pool.key == key) {
            return self.compiled.pools.len() - 1 - back;
        }
        let port_name = port.name.clone().unwrap_or_default();
        let distribution = self.service.spec.traffic_distribution;
        let server_id_bytes = annotation::server_id_bytes(metadata).filter(|_| key.protocol == Protocol::Udp);
        let has_connections = key.protocol != Protocol::Udp || server_id_bytes.is_some();
        let how = (distribution, has_connections);
        let backends = endpoints::choose(&key, &port_name, self.slices, self.site, how);
        let affinity = affinity(&self.service.spec);
        let table_size = table_size(annotation::table_size(metadata), backends.len());
        let forwarding = annotation::forwarding(metadata);
        let health_check = self.health_check.clone();
        let pool = Pool {
            key,
            port_name,
            backends,
            table_size,
            affinity,
            forwarding,
            server_id_bytes,
            health_check,
        };
        self.compiled.pools.push(pool);
        self.compiled.pools.len() - 1
    }
}

/// The port of a pool, and one of its backends' that packets cannot get to.
fn ports_apart(pool: &Pool) -> Option<(u16, u16)> {
    let translates = matches!(pool.forwarding, Forwarding::Nat | Forwarding::FullNat);
    let mut ports = pool.backends.iter().map(|backend| backend.address.port());
    ports.find(|port| !translates && *port != pool.key.port).map(|port| (pool.key.port, port))
}

fn scope(policy: Option<TrafficPolicy>) -> Scope {
    match policy {
        Some(TrafficPolicy::Local) => Scope::Local,
        Some(TrafficPolicy::Cluster) | None => Scope::Cluster,
    }
}

/// The first size of those that are wanted, usual and possible with a slot for each backend: a service that grows beyond what
/// somebody thought of goes on.
fn table_size(wanted: TableSize, backends: usize) -> TableSize {
    let sizes = [wanted, TableSize::DEFAULT, TableSize::MAX];
    sizes.into_iter().find(|size| backends <= size.slots() as usize).unwrap_or(TableSize::MAX)
}

fn affinity(spec: &ServiceSpec) -> Option<Affinity> {
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let timeout = config.and_then(|config| config.timeout_seconds);
    let timeout_seconds = timeout.unwrap_or(DEFAULT_TIMEOUT_SECONDS);
    (spec.session_affinity == SessionAffinity::ClientIp).then_some(Affinity { timeout_seconds })
}

/// The addresses of a service in one family, each once.
fn addresses(service: &Service, wanted: IpFamily) -> Vec<(Exposure, IpAddr)> {
    let spec = &service.spec;
    let cluster = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    let external = spec.external_ips.iter().flatten();
    let vip = service.ingress().iter().filter(|ingress| ingress.ip_mode == IpMode::Vip);
    let all = cluster
        .map(|text| (Exposure::ClusterIp, text))
        .chain(external.map(|text| (Exposure::ExternalIp, text)))
        .chain(vip.filter_map(|ingress| ingress.ip.as_ref()).map(|text| (Exposure::LoadBalancer, text)));
    let mut found: Vec<(Exposure, IpAddr)> = Vec::new();
    for (exposure, text) in all {
        let address = text.parse().ok().filter(|address| family(*address) == wanted);
        if let Some(address) = address
            && found.iter().all(|(_, known)| *known != address)
        {
            found.push((exposure, address));
        }
    }
    found
}

/// Those of both families: if all are of the other one, nobody of this one may.
fn source_ranges(spec: &ServiceSpec) -> Vec<IpNet> {
    let texts = spec.load_balancer_source_ranges.iter().flatten();
    texts.filter_map(|text| text.trim().parse().ok()).collect()
}
