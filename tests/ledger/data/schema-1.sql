BEGIN TRANSACTION;
CREATE TABLE capacity (
	host_id INTEGER NOT NULL, 
	cell INTEGER NOT NULL, 
	resource TEXT NOT NULL, 
	total INTEGER NOT NULL CHECK (total >= 0), 
	allowed INTEGER NOT NULL CHECK (allowed >= 0), 
	used INTEGER NOT NULL CHECK (used >= 0), 
	PRIMARY KEY (host_id, cell, resource), 
	FOREIGN KEY(host_id) REFERENCES host (id) ON DELETE CASCADE
);
INSERT INTO "capacity" VALUES(1,0,'memory_kib',1048576,1048576,0);
INSERT INTO "capacity" VALUES(1,0,'vcpus',2,32,0);
INSERT INTO "capacity" VALUES(1,0,'page:2048',128,128,0);
INSERT INTO "capacity" VALUES(1,1,'memory_kib',1048576,1048576,0);
INSERT INTO "capacity" VALUES(1,1,'vcpus',0,0,0);
INSERT INTO "capacity" VALUES(1,1,'page:2048',128,128,64);
INSERT INTO "capacity" VALUES(1,-1,'memory_kib',2097152,2097152,0);
INSERT INTO "capacity" VALUES(1,-1,'vcpus',2,32,0);
INSERT INTO "capacity" VALUES(2,0,'memory_kib',1048576,1048576,0);
INSERT INTO "capacity" VALUES(2,0,'vcpus',2,32,0);
INSERT INTO "capacity" VALUES(2,0,'page:2048',128,128,32);
INSERT INTO "capacity" VALUES(2,1,'memory_kib',1048576,1048576,0);
INSERT INTO "capacity" VALUES(2,1,'vcpus',0,0,0);
INSERT INTO "capacity" VALUES(2,1,'page:2048',128,128,32);
INSERT INTO "capacity" VALUES(2,-1,'memory_kib',2097152,2097152,65536);
INSERT INTO "capacity" VALUES(2,-1,'vcpus',2,32,1);
CREATE TABLE claim (
	id TEXT NOT NULL, 
	instance_uuid TEXT NOT NULL, 
	host_id INTEGER NOT NULL, 
	slot INTEGER NOT NULL CHECK (slot IN (0, 1)), 
	migration_id INTEGER, 
	numa_topology_json TEXT NOT NULL, 
	pci_devices_json TEXT NOT NULL, 
	vifs_json TEXT NOT NULL, 
	promise TEXT NOT NULL CHECK (promise IN ('kept', 'conflicted', 'floating')), 
	cause TEXT NOT NULL, 
	created_at FLOAT NOT NULL, 
	PRIMARY KEY (id), 
	CONSTRAINT claim_one_per_host UNIQUE (instance_uuid, host_id), 
	CONSTRAINT claim_two_at_most UNIQUE (instance_uuid, slot), 
	CONSTRAINT claim_of_instance UNIQUE (id, instance_uuid), 
	CONSTRAINT claim_of_instance_on_host UNIQUE (id, instance_uuid, host_id), 
	FOREIGN KEY(instance_uuid) REFERENCES instance (uuid) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED, 
	FOREIGN KEY(host_id) REFERENCES host (id), 
	FOREIGN KEY(migration_id) REFERENCES migration (id)
);
INSERT INTO "claim" VALUES('80fa6da2-0ebe-445b-95fd-05ed2693b9eb','00000000-0000-4000-8000-000000000002',1,0,NULL,'{"cells":[{"cpu_pinning":[[0,4],[1,5]],"host_cell":1,"id":0,"memory_kib":65536,"page_size_kib":2048,"pinned_vcpus":"0-1","siblings":"","vcpus":"0-1"}],"emulator_pcpus":"","emulator_threads_policy":null}','[]','[]','kept','adopted on A',1.79581379668499517446e+09);
INSERT INTO "claim" VALUES('ddf472e5-891b-4e5b-9fae-60f8784efb9c','00000000-0000-4000-8000-000000000003',1,0,NULL,'{"cells":[{"cpu_pinning":[[0,6],[1,7]],"host_cell":1,"id":0,"memory_kib":65536,"page_size_kib":2048,"pinned_vcpus":"0-1","siblings":"","vcpus":"0-1"}],"emulator_pcpus":"","emulator_threads_policy":null}','[]','[]','kept','adopted on A',1.79581379669300174707e+09);
INSERT INTO "claim" VALUES('87fa8a3f-a2c2-47cf-ae9d-c58768a769ad','00000000-0000-4000-8000-000000000004',2,0,NULL,'null','[]','[]','floating','adopted on B',1.79581379670201396947e+09);
INSERT INTO "claim" VALUES('807f32d5-852f-4004-98f7-152e0e96e663','00000000-0000-4000-8000-000000000001',2,1,1,'{"cells":[{"cpu_pinning":[[0,2],[1,3]],"host_cell":0,"id":0,"memory_kib":65536,"page_size_kib":2048,"pinned_vcpus":"0-1","siblings":"","vcpus":"0-1"}],"emulator_pcpus":"","emulator_threads_policy":null}','[]','[]','kept','migration 1 from A',1.79581379673399925229e+09);
INSERT INTO "claim" VALUES('f090a123-b454-4136-bd0a-1881e303be02','00000000-0000-4000-8000-000000000003',2,1,3,'{"cells":[{"cpu_pinning":[[0,6],[1,7]],"host_cell":1,"id":0,"memory_kib":65536,"page_size_kib":2048,"pinned_vcpus":"0-1","siblings":"","vcpus":"0-1"}],"emulator_pcpus":"","emulator_threads_policy":null}','[]','[]','kept','migration 3 from A',1.79581379678501486781e+09);
CREATE TABLE claim_amount (
	claim_id TEXT NOT NULL, 
	cell INTEGER NOT NULL, 
	resource TEXT NOT NULL, 
	amount INTEGER NOT NULL CHECK (amount > 0), 
	exact BOOLEAN NOT NULL, 
	host_id INTEGER NOT NULL, 
	instance_uuid TEXT NOT NULL, 
	PRIMARY KEY (claim_id, cell, resource), 
	CONSTRAINT claim_amount_claim FOREIGN KEY(claim_id, instance_uuid, host_id) REFERENCES claim (id, instance_uuid, host_id) ON DELETE CASCADE
);
INSERT INTO "claim_amount" VALUES('80fa6da2-0ebe-445b-95fd-05ed2693b9eb',1,'page:2048',32,1,1,'00000000-0000-4000-8000-000000000002');
INSERT INTO "claim_amount" VALUES('ddf472e5-891b-4e5b-9fae-60f8784efb9c',1,'page:2048',32,1,1,'00000000-0000-4000-8000-000000000003');
INSERT INTO "claim_amount" VALUES('87fa8a3f-a2c2-47cf-ae9d-c58768a769ad',-1,'memory_kib',65536,0,2,'00000000-0000-4000-8000-000000000004');
INSERT INTO "claim_amount" VALUES('87fa8a3f-a2c2-47cf-ae9d-c58768a769ad',-1,'vcpus',1,0,2,'00000000-0000-4000-8000-000000000004');
INSERT INTO "claim_amount" VALUES('807f32d5-852f-4004-98f7-152e0e96e663',0,'page:2048',32,1,2,'00000000-0000-4000-8000-000000000001');
INSERT INTO "claim_amount" VALUES('f090a123-b454-4136-bd0a-1881e303be02',1,'page:2048',32,1,2,'00000000-0000-4000-8000-000000000003');
CREATE TABLE claim_cpu (
	host_id INTEGER NOT NULL, 
	cpu INTEGER NOT NULL, 
	instance_uuid TEXT NOT NULL, 
	role TEXT NOT NULL CHECK (role IN ('vcpu', 'sibling', 'emulator')), 
	PRIMARY KEY (host_id, cpu), 
	CONSTRAINT claim_cpu_of_instance UNIQUE (host_id, cpu, instance_uuid), 
	FOREIGN KEY(host_id) REFERENCES host (id), 
	FOREIGN KEY(instance_uuid) REFERENCES instance (uuid) ON DELETE CASCADE
);
INSERT INTO "claim_cpu" VALUES(1,4,'00000000-0000-4000-8000-000000000002','vcpu');
INSERT INTO "claim_cpu" VALUES(1,5,'00000000-0000-4000-8000-000000000002','vcpu');
INSERT INTO "claim_cpu" VALUES(1,6,'00000000-0000-4000-8000-000000000003','vcpu');
INSERT INTO "claim_cpu" VALUES(1,7,'00000000-0000-4000-8000-000000000003','vcpu');
INSERT INTO "claim_cpu" VALUES(2,2,'00000000-0000-4000-8000-000000000001','vcpu');
INSERT INTO "claim_cpu" VALUES(2,3,'00000000-0000-4000-8000-000000000001','vcpu');
INSERT INTO "claim_cpu" VALUES(2,6,'00000000-0000-4000-8000-000000000003','vcpu');
INSERT INTO "claim_cpu" VALUES(2,7,'00000000-0000-4000-8000-000000000003','vcpu');
CREATE TABLE claim_cpu_link (
	claim_id TEXT NOT NULL, 
	host_id INTEGER NOT NULL, 
	cpu INTEGER NOT NULL, 
	instance_uuid TEXT NOT NULL, 
	PRIMARY KEY (claim_id, host_id, cpu), 
	CONSTRAINT claim_cpu_link_claim FOREIGN KEY(claim_id, instance_uuid, host_id) REFERENCES claim (id, instance_uuid, host_id) ON DELETE CASCADE, 
	CONSTRAINT claim_cpu_link_cpu FOREIGN KEY(host_id, cpu, instance_uuid) REFERENCES claim_cpu (host_id, cpu, instance_uuid) ON DELETE CASCADE
);
INSERT INTO "claim_cpu_link" VALUES('80fa6da2-0ebe-445b-95fd-05ed2693b9eb',1,4,'00000000-0000-4000-8000-000000000002');
INSERT INTO "claim_cpu_link" VALUES('80fa6da2-0ebe-445b-95fd-05ed2693b9eb',1,5,'00000000-0000-4000-8000-000000000002');
INSERT INTO "claim_cpu_link" VALUES('ddf472e5-891b-4e5b-9fae-60f8784efb9c',1,6,'00000000-0000-4000-8000-000000000003');
INSERT INTO "claim_cpu_link" VALUES('ddf472e5-891b-4e5b-9fae-60f8784efb9c',1,7,'00000000-0000-4000-8000-000000000003');
INSERT INTO "claim_cpu_link" VALUES('807f32d5-852f-4004-98f7-152e0e96e663',2,2,'00000000-0000-4000-8000-000000000001');
INSERT INTO "claim_cpu_link" VALUES('807f32d5-852f-4004-98f7-152e0e96e663',2,3,'00000000-0000-4000-8000-000000000001');
INSERT INTO "claim_cpu_link" VALUES('f090a123-b454-4136-bd0a-1881e303be02',2,6,'00000000-0000-4000-8000-000000000003');
INSERT INTO "claim_cpu_link" VALUES('f090a123-b454-4136-bd0a-1881e303be02',2,7,'00000000-0000-4000-8000-000000000003');
CREATE TABLE dedicated_cpu (
	host_id INTEGER NOT NULL, 
	cpu INTEGER NOT NULL, 
	PRIMARY KEY (host_id, cpu), 
	FOREIGN KEY(host_id) REFERENCES host (id) ON DELETE CASCADE
);
INSERT INTO "dedicated_cpu" VALUES(1,2);
INSERT INTO "dedicated_cpu" VALUES(1,3);
INSERT INTO "dedicated_cpu" VALUES(1,4);
INSERT INTO "dedicated_cpu" VALUES(1,5);
INSERT INTO "dedicated_cpu" VALUES(1,6);
INSERT INTO "dedicated_cpu" VALUES(1,7);
INSERT INTO "dedicated_cpu" VALUES(2,2);
INSERT INTO "dedicated_cpu" VALUES(2,3);
INSERT INTO "dedicated_cpu" VALUES(2,4);
INSERT INTO "dedicated_cpu" VALUES(2,5);
INSERT INTO "dedicated_cpu" VALUES(2,6);
INSERT INTO "dedicated_cpu" VALUES(2,7);
CREATE TABLE event (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	at FLOAT NOT NULL, 
	kind TEXT NOT NULL, 
	sentence TEXT NOT NULL, 
	host TEXT, 
	instance_uuid TEXT, 
	migration_id INTEGER
);
INSERT INTO "event" VALUES(1,1.79581379663200831411e+09,'host-added','host A added (test:///A), confirmed','A',NULL,NULL);
INSERT INTO "event" VALUES(2,1.79581379663800287248e+09,'host-added','host B added (test:///B), confirmed','B',NULL,NULL);
INSERT INTO "event" VALUES(3,1.79581379664198613164e+09,'host-added','host C added (test:///C), not confirmed yet: nothing is claimable','C',NULL,NULL);
INSERT INTO "event" VALUES(4,1.79581379667598295206e+09,'adopted','db1 adopted on A with CPUs 2-3','A','00000000-0000-4000-8000-000000000001',NULL);
INSERT INTO "event" VALUES(5,1.7958137966870069504e+09,'adopted','db2 adopted on A with CPUs 4-5','A','00000000-0000-4000-8000-000000000002',NULL);
INSERT INTO "event" VALUES(6,1.79581379669501328471e+09,'adopted','db3 adopted on A with CPUs 6-7','A','00000000-0000-4000-8000-000000000003',NULL);
INSERT INTO "event" VALUES(7,1.79581379670398521425e+09,'adopted','web adopted on B with CPUs none','B','00000000-0000-4000-8000-000000000004',NULL);
INSERT INTO "event" VALUES(8,1.79581379673500514037e+09,'move-claimed','migration 1 of db1 accepted: A to B, CPUs 2-3 claimed there','B','00000000-0000-4000-8000-000000000001',1);
INSERT INTO "event" VALUES(9,1.79581379674900627136e+09,'confirmed','db1 runs on B: its claim on A is released','B','00000000-0000-4000-8000-000000000001',1);
INSERT INTO "event" VALUES(10,1.79581379675101780886e+09,'migration','migration 1 is completed','B','00000000-0000-4000-8000-000000000001',1);
INSERT INTO "event" VALUES(11,1.79581379676300740243e+09,'move-claimed','migration 2 of db2 accepted: A to B, CPUs 6-7 claimed there','B','00000000-0000-4000-8000-000000000002',2);
INSERT INTO "event" VALUES(12,1.79581379676900196079e+09,'move-claim-dropped','the claim on B is released: refused','B','00000000-0000-4000-8000-000000000002',2);
INSERT INTO "event" VALUES(13,1.79581379677000784874e+09,'migration','migration 2 is failed: refused','B','00000000-0000-4000-8000-000000000002',2);
INSERT INTO "event" VALUES(14,1.79581379678598046303e+09,'move-claimed','migration 3 of db3 accepted: A to B, CPUs 6-7 claimed there','B','00000000-0000-4000-8000-000000000003',3);
INSERT INTO "event" VALUES(15,1.79581379679100966448e+09,'migration','preparing','B','00000000-0000-4000-8000-000000000003',3);
CREATE TABLE finding (
	id INTEGER NOT NULL, 
	host_id INTEGER NOT NULL, 
	at FLOAT NOT NULL, 
	kind TEXT NOT NULL, 
	severity TEXT NOT NULL, 
	subject TEXT NOT NULL, 
	sentence TEXT NOT NULL, 
	remedy TEXT NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(host_id) REFERENCES host (id) ON DELETE CASCADE
);
INSERT INTO "finding" VALUES(1,2,1.79581379679599857333e+09,'overfull','error','B','x','');
CREATE TABLE host (
	id INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	uuid TEXT NOT NULL, 
	facts_json TEXT NOT NULL, 
	config_json TEXT NOT NULL, 
	confirmed BOOLEAN NOT NULL, 
	generation INTEGER NOT NULL, 
	state TEXT NOT NULL CHECK (state IN ('reachable', 'unreachable', 'quarantined')), 
	state_reason TEXT NOT NULL, 
	observed_at FLOAT, 
	PRIMARY KEY (id), 
	UNIQUE (name)
);
INSERT INTO "host" VALUES(1,'A','uuid-of-A','{"boot_id":"","domain_types":["kvm"],"hostname":"A","hypervisor_version":7002000,"libvirt_version":9000000,"links":null,"topology":{"cells":[{"cpus":"0-3","distances":[[0,10],[1,21]],"id":0,"memory_kib":1572864,"pages":[{"free":327680,"size_kib":4,"total":327680},{"free":128,"size_kib":2048,"total":128}],"siblings":["0-1","2-3"],"socket":0},{"cpus":"4-7","distances":[[0,21],[1,10]],"id":1,"memory_kib":1572864,"pages":[{"free":327680,"size_kib":4,"total":327680},{"free":128,"size_kib":2048,"total":128}],"siblings":["4-5","6-7"],"socket":1}]},"unplaced_cpus":"","uri":"test:///A","uuid":"uuid-of-A"}','{"cpu_allocation_ratio":16.0,"cpu_dedicated_set":"2-7","cpu_shared_set":"0-1","migration_address":"","peer_uri":"","physical_network_cells":[],"physical_networks":[],"ram_allocation_ratio":1.0,"reserved_host_memory_mb":512,"reserved_huge_pages":[]}',1,5,'reachable','',NULL);
INSERT INTO "host" VALUES(2,'B','uuid-of-B','{"boot_id":"","domain_types":["kvm"],"hostname":"B","hypervisor_version":7002000,"libvirt_version":9000000,"links":null,"topology":{"cells":[{"cpus":"0-3","distances":[[0,10],[1,21]],"id":0,"memory_kib":1572864,"pages":[{"free":327680,"size_kib":4,"total":327680},{"free":128,"size_kib":2048,"total":128}],"siblings":["0-1","2-3"],"socket":0},{"cpus":"4-7","distances":[[0,21],[1,10]],"id":1,"memory_kib":1572864,"pages":[{"free":327680,"size_kib":4,"total":327680},{"free":128,"size_kib":2048,"total":128}],"siblings":["4-5","6-7"],"socket":1}]},"unplaced_cpus":"","uri":"test:///B","uuid":"uuid-of-B"}','{"cpu_allocation_ratio":16.0,"cpu_dedicated_set":"2-7","cpu_shared_set":"0-1","migration_address":"","peer_uri":"","physical_network_cells":[],"physical_networks":[],"ram_allocation_ratio":1.0,"reserved_host_memory_mb":512,"reserved_huge_pages":[]}',1,7,'reachable','',1.795813796711991787e+09);
INSERT INTO "host" VALUES(3,'C','uuid-of-C','{"boot_id":"","domain_types":["kvm"],"hostname":"C","hypervisor_version":7002000,"libvirt_version":9000000,"links":null,"topology":{"cells":[{"cpus":"0-3","distances":[[0,10],[1,21]],"id":0,"memory_kib":1572864,"pages":[{"free":327680,"size_kib":4,"total":327680},{"free":128,"size_kib":2048,"total":128}],"siblings":["0-1","2-3"],"socket":0},{"cpus":"4-7","distances":[[0,21],[1,10]],"id":1,"memory_kib":1572864,"pages":[{"free":327680,"size_kib":4,"total":327680},{"free":128,"size_kib":2048,"total":128}],"siblings":["4-5","6-7"],"socket":1}]},"unplaced_cpus":"","uri":"test:///C","uuid":"uuid-of-C"}','{"cpu_allocation_ratio":16.0,"cpu_dedicated_set":"2-7","cpu_shared_set":"0-1","migration_address":"","peer_uri":"","physical_network_cells":[],"physical_networks":[],"ram_allocation_ratio":1.0,"reserved_host_memory_mb":512,"reserved_huge_pages":[]}',0,1,'reachable','',NULL);
CREATE TABLE instance (
	uuid TEXT NOT NULL, 
	name TEXT NOT NULL, 
	flavor_json TEXT NOT NULL, 
	request_json TEXT NOT NULL, 
	persistent BOOLEAN NOT NULL, 
	current_claim TEXT NOT NULL, 
	PRIMARY KEY (uuid), 
	CONSTRAINT instance_current_claim FOREIGN KEY(current_claim, uuid) REFERENCES claim (id, instance_uuid) DEFERRABLE INITIALLY DEFERRED
);
INSERT INTO "instance" VALUES('00000000-0000-4000-8000-000000000001','db1','{"extra_specs":[],"memory_mb":64,"name":"of-db1","vcpus":2}','{"cells":[{"id":0,"memory_kib":65536,"page_size":2048,"pinned_vcpus":"0-1","vcpus":"0-1"}],"cpu_policy":"dedicated","emulator_threads_policy":null,"memory_kib":65536,"pci_requests":[],"physical_networks":[],"realtime_vcpus":"","thread_policy":null,"vcpus":2}',1,'807f32d5-852f-4004-98f7-152e0e96e663');
INSERT INTO "instance" VALUES('00000000-0000-4000-8000-000000000002','db2','{"extra_specs":[],"memory_mb":64,"name":"of-db2","vcpus":2}','{"cells":[{"id":0,"memory_kib":65536,"page_size":2048,"pinned_vcpus":"0-1","vcpus":"0-1"}],"cpu_policy":"dedicated","emulator_threads_policy":null,"memory_kib":65536,"pci_requests":[],"physical_networks":[],"realtime_vcpus":"","thread_policy":null,"vcpus":2}',1,'80fa6da2-0ebe-445b-95fd-05ed2693b9eb');
INSERT INTO "instance" VALUES('00000000-0000-4000-8000-000000000003','db3','{"extra_specs":[],"memory_mb":64,"name":"of-db3","vcpus":2}','{"cells":[{"id":0,"memory_kib":65536,"page_size":2048,"pinned_vcpus":"0-1","vcpus":"0-1"}],"cpu_policy":"dedicated","emulator_threads_policy":null,"memory_kib":65536,"pci_requests":[],"physical_networks":[],"realtime_vcpus":"","thread_policy":null,"vcpus":2}',1,'ddf472e5-891b-4e5b-9fae-60f8784efb9c');
INSERT INTO "instance" VALUES('00000000-0000-4000-8000-000000000004','web','{"extra_specs":[],"memory_mb":64,"name":"of-web","vcpus":1}','{"cells":[],"cpu_policy":"shared","emulator_threads_policy":null,"memory_kib":65536,"pci_requests":[],"physical_networks":[],"realtime_vcpus":"","thread_policy":null,"vcpus":1}',1,'87fa8a3f-a2c2-47cf-ae9d-c58768a769ad');
CREATE TABLE ledger (
	id INTEGER NOT NULL CHECK (id = 1), 
	schema_version INTEGER NOT NULL, 
	ledger_id TEXT NOT NULL, 
	created_at FLOAT NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "ledger" VALUES(1,1,'8896d911-d56b-4270-8db3-817b21bbd166',1.79581379660098838799e+09);
CREATE TABLE migration (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	uuid TEXT NOT NULL, 
	instance_uuid TEXT NOT NULL, 
	source TEXT NOT NULL, 
	dest TEXT NOT NULL, 
	status TEXT NOT NULL CHECK (status IN ('accepted', 'cancelled', 'completed', 'error', 'failed', 'post-migrating', 'preparing', 'queued', 'running')), 
	step TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	context_json TEXT NOT NULL, 
	created_at FLOAT NOT NULL, 
	updated_at FLOAT NOT NULL, 
	controller TEXT NOT NULL, 
	abort_requested BOOLEAN NOT NULL, 
	bandwidth_mib_s INTEGER NOT NULL, 
	source_memo_json TEXT NOT NULL, 
	UNIQUE (uuid)
);
INSERT INTO "migration" VALUES(1,'03c97ea8-2b72-4bf0-b663-e1be82c22350','00000000-0000-4000-8000-000000000001','A','B','completed','','','{"new_cpu_shared_set":"0-1","new_numa_topology":{"cells":[{"cpu_pinning":[[0,2],[1,3]],"host_cell":0,"id":0,"memory_kib":65536,"page_size_kib":2048,"pinned_vcpus":"0-1","siblings":"","vcpus":"0-1"}],"emulator_pcpus":"","emulator_threads_policy":null},"new_pci_devices":[],"new_vifs":[],"old_numa_topology":{"cells":[{"cpu_pinning":[[0,2],[1,3]],"host_cell":0,"id":0,"memory_kib":65536,"page_size_kib":2048,"pinned_vcpus":"0-1","siblings":"","vcpus":"0-1"}],"emulator_pcpus":"","emulator_threads_policy":null},"old_pci_devices":[],"old_vifs":[]}',1.79581379672800445562e+09,1.79581379675001192091e+09,'old:1:2.1',0,0,'[]');
INSERT INTO "migration" VALUES(2,'3d4a59d6-c6d1-4348-92e3-b7f0c040415e','00000000-0000-4000-8000-000000000002','A','B','failed','','refused','{"new_cpu_shared_set":"0-1","new_numa_topology":{"cells":[{"cpu_pinning":[[0,6],[1,7]],"host_cell":1,"id":0,"memory_kib":65536,"page_size_kib":2048,"pinned_vcpus":"0-1","siblings":"","vcpus":"0-1"}],"emulator_pcpus":"","emulator_threads_policy":null},"new_pci_devices":[],"new_vifs":[],"old_numa_topology":{"cells":[{"cpu_pinning":[[0,4],[1,5]],"host_cell":1,"id":0,"memory_kib":65536,"page_size_kib":2048,"pinned_vcpus":"0-1","siblings":"","vcpus":"0-1"}],"emulator_pcpus":"","emulator_threads_policy":null},"old_pci_devices":[],"old_vifs":[]}',1.79581379675998973853e+09,1.79581379677000784874e+09,'',0,0,'[]');
INSERT INTO "migration" VALUES(3,'4d78c3eb-cbd3-4d8f-9927-59c0b9716823','00000000-0000-4000-8000-000000000003','A','B','preparing','pre_live_migration','','{"new_cpu_shared_set":"0-1","new_numa_topology":{"cells":[{"cpu_pinning":[[0,6],[1,7]],"host_cell":1,"id":0,"memory_kib":65536,"page_size_kib":2048,"pinned_vcpus":"0-1","siblings":"","vcpus":"0-1"}],"emulator_pcpus":"","emulator_threads_policy":null},"new_pci_devices":[],"new_vifs":[],"old_numa_topology":{"cells":[{"cpu_pinning":[[0,6],[1,7]],"host_cell":1,"id":0,"memory_kib":65536,"page_size_kib":2048,"pinned_vcpus":"0-1","siblings":"","vcpus":"0-1"}],"emulator_pcpus":"","emulator_threads_policy":null},"old_pci_devices":[],"old_vifs":[]}',1.79581379677998566627e+09,1.79581379679100966448e+09,'old:1:2.2',0,0,'[["force","1"]]');
CREATE TABLE observed_cpu (
	host_id INTEGER NOT NULL, 
	cpu INTEGER NOT NULL, 
	uuid TEXT NOT NULL, 
	PRIMARY KEY (host_id, cpu, uuid), 
	CONSTRAINT observed_cpu_use FOREIGN KEY(host_id, uuid) REFERENCES observed_use (host_id, uuid) ON DELETE CASCADE
);
INSERT INTO "observed_cpu" VALUES(2,4,'11111111-0000-4000-8000-000000000005');
CREATE TABLE observed_use (
	host_id INTEGER NOT NULL, 
	uuid TEXT NOT NULL, 
	use_json TEXT NOT NULL, 
	PRIMARY KEY (host_id, uuid), 
	FOREIGN KEY(host_id) REFERENCES host (id) ON DELETE CASCADE
);
INSERT INTO "observed_use" VALUES(2,'11111111-0000-4000-8000-000000000005','{"floating":false,"managed":false,"memory_kib":32768,"name":"stranger","pages":[],"pinned_cpus":"4","uuid":"11111111-0000-4000-8000-000000000005","vcpus":1}');
CREATE UNIQUE INDEX host_machine ON host (uuid) WHERE uuid <> '';
CREATE UNIQUE INDEX migration_one_in_progress ON migration (instance_uuid) WHERE status IN ('accepted', 'error', 'post-migrating', 'preparing', 'queued', 'running');
CREATE INDEX event_by_instance ON event (instance_uuid);
CREATE INDEX event_by_migration ON event (migration_id);
CREATE UNIQUE INDEX claim_one_per_migration ON claim (migration_id) WHERE migration_id IS NOT NULL;
CREATE INDEX claim_by_host ON claim (host_id);
CREATE INDEX claim_cpu_by_instance ON claim_cpu (instance_uuid);
CREATE INDEX finding_by_host ON finding (host_id);
CREATE INDEX claim_cpu_link_by_cpu ON claim_cpu_link (host_id, cpu);
CREATE TRIGGER claim_never_edited BEFORE UPDATE ON claim BEGIN SELECT RAISE(ABORT, 'claim-edited'); END;
CREATE TRIGGER claim_cpu_never_edited BEFORE UPDATE ON claim_cpu BEGIN SELECT RAISE(ABORT, 'claim-edited'); END;
CREATE TRIGGER claim_cpu_link_never_edited BEFORE UPDATE ON claim_cpu_link BEGIN SELECT RAISE(ABORT, 'claim-edited'); END;
CREATE TRIGGER claim_amount_never_edited BEFORE UPDATE ON claim_amount BEGIN SELECT RAISE(ABORT, 'claim-edited'); END;
CREATE TRIGGER event_never_edited BEFORE UPDATE ON event BEGIN SELECT RAISE(ABORT, 'history-edited'); END;
CREATE TRIGGER event_never_deleted BEFORE DELETE ON event BEGIN SELECT RAISE(ABORT, 'history-edited'); END;
CREATE TRIGGER migration_never_deleted BEFORE DELETE ON migration BEGIN SELECT RAISE(ABORT, 'migration-deleted'); END;
CREATE TRIGGER claim_cpu_dedicated BEFORE INSERT ON claim_cpu WHEN NOT EXISTS (SELECT 1 FROM dedicated_cpu WHERE host_id = NEW.host_id AND cpu = NEW.cpu) BEGIN SELECT RAISE(ABORT, 'cpu-not-dedicated'); END;
CREATE TRIGGER claim_cpu_unobserved BEFORE INSERT ON claim_cpu WHEN EXISTS (SELECT 1 FROM observed_cpu WHERE host_id = NEW.host_id AND cpu = NEW.cpu AND uuid <> NEW.instance_uuid) BEGIN SELECT RAISE(ABORT, 'cpu-observed'); END;
CREATE TRIGGER claim_amount_known BEFORE INSERT ON claim_amount WHEN NOT EXISTS (SELECT 1 FROM capacity WHERE host_id = NEW.host_id AND resource = NEW.resource AND cell = NEW.cell) BEGIN SELECT RAISE(ABORT, 'capacity-unknown'); END;
CREATE TRIGGER claim_amount_limit BEFORE INSERT ON claim_amount WHEN EXISTS (
    SELECT 1 FROM capacity WHERE host_id = NEW.host_id AND resource = NEW.resource AND cell IN (NEW.cell, -1) AND used + NEW.amount > CASE
        WHEN NOT NEW.exact THEN allowed WHEN cell = NEW.cell THEN total ELSE max(total, allowed) END) BEGIN SELECT RAISE(ABORT, 'capacity-exceeded'); END;
CREATE TRIGGER claim_amount_added AFTER INSERT ON claim_amount BEGIN UPDATE capacity SET used = used + NEW.amount WHERE host_id = NEW.host_id AND resource = NEW.resource AND cell IN (NEW.cell, -1); END;
CREATE TRIGGER claim_amount_released AFTER DELETE ON claim_amount BEGIN UPDATE capacity SET used = used - OLD.amount WHERE host_id = OLD.host_id AND resource = OLD.resource AND cell IN (OLD.cell, -1); END;
CREATE TRIGGER claim_cpu_released AFTER DELETE ON claim_cpu_link BEGIN DELETE FROM claim_cpu WHERE host_id = OLD.host_id AND cpu = OLD.cpu AND NOT EXISTS (SELECT 1 FROM claim_cpu_link WHERE host_id = OLD.host_id AND cpu = OLD.cpu); END;
CREATE TRIGGER claim_added AFTER INSERT ON claim BEGIN UPDATE host SET generation = generation + 1 WHERE id = NEW.host_id; END;
CREATE TRIGGER claim_released AFTER DELETE ON claim BEGIN UPDATE host SET generation = generation + 1 WHERE id = OLD.host_id; END;
CREATE TRIGGER claim_second_moves BEFORE INSERT ON claim WHEN EXISTS (SELECT 1 FROM claim WHERE instance_uuid = NEW.instance_uuid) AND NOT EXISTS (SELECT 1 FROM migration WHERE id = NEW.migration_id AND instance_uuid = NEW.instance_uuid AND status IN ('accepted', 'error', 'post-migrating', 'preparing', 'queued', 'running')) BEGIN SELECT RAISE(ABORT, 'claim-without-migration'); END;
CREATE TRIGGER instance_flip_releases AFTER UPDATE OF current_claim ON instance WHEN (SELECT count(*) FROM claim WHERE instance_uuid = NEW.uuid) > 1 BEGIN SELECT RAISE(ABORT, 'claim-left-behind'); END;
CREATE TRIGGER migration_ends_clean BEFORE UPDATE OF status ON migration WHEN NEW.status IN ('cancelled', 'completed', 'failed') AND EXISTS (SELECT 1 FROM claim JOIN instance ON instance.uuid = claim.instance_uuid WHERE claim.migration_id = NEW.id AND instance.current_claim <> claim.id) BEGIN SELECT RAISE(ABORT, 'claim-leaked'); END;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('event',15);
INSERT INTO "sqlite_sequence" VALUES('migration',3);
COMMIT;
