# The names of libvirt-python that numaferry.virt.libvirt uses, with the types that the bindings really return.
from collections.abc import Callable, Sequence
from typing import Any

VIR_ERR_INTERNAL_ERROR: int
VIR_ERR_NO_SUPPORT: int
VIR_ERR_NO_DOMAIN: int
VIR_ERR_OPERATION_INVALID: int
VIR_ERR_OPERATION_UNSUPPORTED: int
VIR_ERR_OPERATION_TIMEOUT: int
VIR_ERR_AUTH_FAILED: int
VIR_ERR_AUTH_CANCELLED: int
VIR_ERR_AUTH_UNAVAILABLE: int
VIR_ERR_ACCESS_DENIED: int
VIR_ERR_NO_DOMAIN_METADATA: int
VIR_ERR_NO_NETWORK: int
VIR_ERR_NO_STORAGE_POOL: int
VIR_ERR_NO_STORAGE_VOL: int
VIR_ERR_INVALID_ARG: int
VIR_ERR_SYSTEM_ERROR: int
VIR_ERR_CPU_INCOMPATIBLE: int
VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE: int
VIR_CPU_COMPARE_INCOMPATIBLE: int
VIR_CPU_COMPARE_IDENTICAL: int
VIR_CPU_COMPARE_SUPERSET: int
VIR_CONNECT_LIST_NODE_DEVICES_CAP_NET: int
VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE: int
VIR_NODE_CPU_STATS_ALL_CPUS: int
VIR_DOMAIN_XML_SECURE: int
VIR_DOMAIN_XML_INACTIVE: int
VIR_DOMAIN_XML_MIGRATABLE: int
VIR_DOMAIN_METADATA_ELEMENT: int
VIR_DOMAIN_AFFECT_LIVE: int
VIR_DOMAIN_AFFECT_CONFIG: int
VIR_DOMAIN_JOB_NONE: int
VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN: int
VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT: int
VIR_DOMAIN_JOB_STATS_COMPLETED: int
VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED: int
VIR_DOMAIN_RUNNING: int
VIR_DOMAIN_DIRTYRATE_MODE_PAGE_SAMPLING: int
VIR_DOMAIN_DIRTYRATE_MEASURED: int
VIR_DOMAIN_STATS_DIRTYRATE: int
VIR_DOMAIN_PAUSED: int
VIR_MIGRATE_LIVE: int
VIR_MIGRATE_PEER2PEER: int
VIR_MIGRATE_PERSIST_DEST: int
VIR_MIGRATE_UNDEFINE_SOURCE: int
VIR_MIGRATE_ABORT_ON_ERROR: int
VIR_MIGRATE_AUTO_CONVERGE: int
VIR_MIGRATE_POSTCOPY: int
VIR_MIGRATE_PARALLEL: int
VIR_MIGRATE_COMPRESSED: int
VIR_MIGRATE_TLS: int
VIR_MIGRATE_NON_SHARED_DISK: int
VIR_MIGRATE_NON_SHARED_INC: int
VIR_MIGRATE_UNSAFE: int
VIR_MIGRATE_PARAM_DEST_XML: str
VIR_MIGRATE_PARAM_BANDWIDTH_POSTCOPY: str
VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS: str
VIR_MIGRATE_PARAM_COMPRESSION: str
VIR_MIGRATE_PARAM_AUTO_CONVERGE_INITIAL: str
VIR_MIGRATE_PARAM_AUTO_CONVERGE_INCREMENT: str
VIR_MIGRATE_PARAM_PERSIST_XML: str
VIR_MIGRATE_PARAM_URI: str
VIR_MIGRATE_PARAM_LISTEN_ADDRESS: str
VIR_MIGRATE_PARAM_BANDWIDTH: str
VIR_MIGRATE_PARAM_MIGRATE_DISKS: str

class libvirtError(Exception):  # noqa: N801  (the bindings' name)
    def get_error_code(self) -> int: ...
    def get_error_message(self) -> str: ...
    def get_int1(self) -> int: ...

class virNodeDevice:  # noqa: N801  (the bindings' name)
    def XMLDesc(self, flags: int = 0) -> str: ...  # noqa: N802

class virInterface:  # noqa: N801  (the bindings' name)
    def name(self) -> str: ...
    def isActive(self) -> int: ...  # noqa: N802

class virNetwork:  # noqa: N801  (the bindings' name)
    def isActive(self) -> int: ...  # noqa: N802

class virStorageVol:  # noqa: N801  (the bindings' name)
    def name(self) -> str: ...
    def XMLDesc(self, flags: int = 0) -> str: ...  # noqa: N802
    def delete(self, flags: int = 0) -> int: ...
    def storagePoolLookupByVolume(self) -> virStoragePool: ...  # noqa: N802

class virStoragePool:  # noqa: N801  (the bindings' name)
    def name(self) -> str: ...
    def isActive(self) -> int: ...  # noqa: N802
    def XMLDesc(self, flags: int = 0) -> str: ...  # noqa: N802
    def refresh(self, flags: int = 0) -> int: ...
    def createXML(self, xmlDesc: str, flags: int = 0) -> virStorageVol: ...  # noqa: N802, N803

class virDomain:  # noqa: N801  (the bindings' name)
    def snapshotNum(self, flags: int = 0) -> int: ...  # noqa: N802
    def UUIDString(self) -> str: ...  # noqa: N802
    def name(self) -> str: ...
    def state(self, flags: int = 0) -> list[int]: ...
    def isPersistent(self) -> int: ...  # noqa: N802
    def isActive(self) -> int: ...  # noqa: N802
    def XMLDesc(self, flags: int = 0) -> str: ...  # noqa: N802
    def setMetadata(self, type: int, metadata: str | None, key: str | None, uri: str, flags: int = 0) -> int: ...  # noqa: A002, N802
    def vcpus(self) -> tuple[list[tuple[int, int, int, int]], list[tuple[bool, ...]]]: ...
    def ioThreadInfo(self, flags: int = 0) -> list[tuple[int, list[bool]]]: ...  # noqa: N802
    def pinVcpuFlags(self, vcpu: int, cpumap: tuple[bool, ...], flags: int = 0) -> int: ...  # noqa: N802
    def pinEmulator(self, cpumap: tuple[bool, ...], flags: int = 0) -> int: ...  # noqa: N802
    def migrateToURI3(self, dconnuri: str, params: dict[str, Any], flags: int = 0) -> int: ...  # noqa: N802
    def jobStats(self, flags: int = 0) -> dict[str, Any]: ...  # noqa: N802
    def migrateSetMaxDowntime(self, downtime: int, flags: int = 0) -> int: ...  # noqa: N802
    def memoryStats(self, flags: int = 0) -> dict[str, int]: ...  # noqa: N802
    def startDirtyRateCalc(self, seconds: int, flags: int = 0) -> int: ...  # noqa: N802
    def migrateStartPostCopy(self, flags: int = 0) -> int: ...  # noqa: N802
    def blockInfo(self, path: str, flags: int = 0) -> list[int]: ...  # noqa: N802
    def suspend(self) -> int: ...
    def abortJob(self) -> int: ...  # noqa: N802
    def resume(self) -> int: ...

class virConnect:  # noqa: N801  (the bindings' name)
    def setKeepAlive(self, interval: int, count: int) -> int: ...  # noqa: N802
    def isAlive(self) -> int: ...  # noqa: N802
    def close(self) -> int: ...
    def getLibVersion(self) -> int: ...  # noqa: N802
    def getCPUStats(self, cpuNum: int, flags: int = 0) -> dict[str, int]: ...  # noqa: N802, N803
    def getVersion(self) -> int: ...  # noqa: N802
    def getHostname(self) -> str: ...  # noqa: N802
    def getCapabilities(self) -> str: ...  # noqa: N802
    def getCPUMap(self, flags: int = 0) -> tuple[int, list[bool], int]: ...  # noqa: N802
    # the bindings name the second and third argument startCell and cellCount; here they are passed by place
    def getFreePages(self, pages: Sequence[int], start: int, count: int, /) -> dict[int, dict[int, int]]: ...  # noqa: N802
    def domainListGetStats(  # noqa: N802
        self, doms: list[virDomain], stats: int = 0, flags: int = 0
    ) -> list[tuple[virDomain, dict[str, Any]]]: ...
    def listAllDomains(self, flags: int = 0) -> list[virDomain]: ...  # noqa: N802
    def listAllInterfaces(self, flags: int = 0) -> list[virInterface]: ...  # noqa: N802
    def listAllDevices(self, flags: int = 0) -> list[virNodeDevice]: ...  # noqa: N802
    def listAllStoragePools(self, flags: int = 0) -> list[virStoragePool]: ...  # noqa: N802
    def storagePoolLookupByName(self, name: str) -> virStoragePool: ...  # noqa: N802
    def storageVolLookupByPath(self, path: str) -> virStorageVol: ...  # noqa: N802
    def lookupByUUIDString(self, uuidstr: str) -> virDomain: ...  # noqa: N802
    def networkLookupByName(self, name: str) -> virNetwork: ...  # noqa: N802
    # None: the one that libvirt would take by itself
    def getDomainCapabilities(  # noqa: N802
        self,
        emulatorbin: str | None = None,
        arch: str | None = None,
        machine: str | None = None,
        virttype: str | None = None,
        flags: int = 0,
    ) -> str: ...
    def compareHypervisorCPU(  # noqa: N802
        self,
        emulator: str | None,
        arch: str | None,
        machine: str | None,
        virttype: str | None,
        xmlCPU: str,  # noqa: N803
        flags: int = 0,
    ) -> int: ...

def open(name: str | None = None) -> virConnect: ...  # noqa: A001
def registerErrorHandler(f: Callable[[Any, Any], None], ctx: Any) -> int: ...  # noqa: N802
def virEventRegisterDefaultImpl() -> int: ...  # noqa: N802
def virEventRunDefaultImpl() -> int: ...  # noqa: N802
