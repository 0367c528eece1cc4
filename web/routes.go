package web

import "net/http"

// route is one call of the REST API. The table of them is also what the OpenAPI document is made of.
type route struct {
	method, path string // as chi has it
	does         string // for the document
	serve        func(*http.Request) (any, error)
	status       int      // of a success
	answer       any      // a value of the type that a success answers with
	body         any      // a value of the type of the request's body; nil: none
	query        []string // parameters
	changes      bool     // refused in read-only mode, and from pages of other sites
	upload       bool     // the body is a jar
	shared       bool     // answers are shared (shared.go); a success is 200
}

// routes are all calls, without prefix.
func (h *Handler) routes() []route {
	all := append(h.clusterRoutes(), h.jobRoutes()...)
	all = append(all, h.vertexRoutes()...)
	all = append(all, h.processRoutes()...)
	all = append(all, h.changingRoutes()...)
	for k := range all {
		if all[k].status == 0 {
			all[k].status = http.StatusOK
		}
	}
	return all
}

// get is a call that only reads.
func get(path, does string, serve func(*http.Request) (any, error), answer any, query ...string) route {
	return route{method: http.MethodGet, path: path, does: does, serve: serve, answer: answer, query: query, shared: true}
}

// fresh is a call whose answers are not shared: clients wait for what it tells.
func fresh(rt route) route {
	rt.shared = false
	return rt
}

func (h *Handler) clusterRoutes() []route {
	return []route{
		get("/config", "version and features", h.config, configJSON{}),
		get("/overview", "counts of jobs and slots", h.overview, overviewJSON{}),
		get("/jobs", "ids of all jobs", h.jobIDs, jobIDsJSON{}),
		get("/jobs/overview", "all jobs", h.jobsOverview, jobSummariesJSON{}),
		get("/jobs/metrics", "metrics over all jobs", h.allJobMetrics, []aggregateJSON{}, "get", "agg", "jobs"),
		get("/stored-jobs", "jobs in the store of the checkpoints", h.storedJobs, storedJobsJSON{}),
		get("/jars", "uploaded jars", h.listJars, jarsJSON{}),
		get("/datasets", "none: there are no cluster data sets", func(*http.Request) (any, error) { return dataSetsJSON{[]empty{}}, nil }, dataSetsJSON{}),
	}
}

type dataSetsJSON struct {
	DataSets []empty `json:"dataSets"`
}

func (h *Handler) jobRoutes() []route {
	return []route{
		get("/jobs/{job}", "a job with its stages", h.jobDetails, jobJSON{}),
		get("/jobs/{job}/status", "state of a job", h.jobStatus, statusJSON{}),
		get("/jobs/{job}/config", "pipeline options", h.jobConfig, jobConfigJSON{}),
		get("/jobs/{job}/plan", "graph of stages", h.jobPlan, jobPlanJSON{}),
		get("/jobs/{job}/exceptions", "what made the job fail or restart", h.exceptions, exceptionsJSON{}, "maxExceptions"),
		get("/jobs/{job}/execution-result", "whether the job has ended, and how", h.executionResult, executionResultJSON{}),
		get("/jobs/{job}/accumulators", "metrics of user code", h.accumulators, accumulatorsJSON{}, "includeSerializedValue"),
		get("/jobs/{job}/metrics", "metrics of a job", h.jobMetrics, []metricJSON{}, "get"),
		get("/jobs/{job}/checkpoints", "statistics of checkpoints", h.checkpoints, checkpointsJSON{}),
		get("/jobs/{job}/checkpoints/config", "how checkpoints are made", h.checkpointConfig, checkpointConfigJSON{}),
		get("/jobs/{job}/checkpoints/details/{checkpoint}", "a checkpoint", h.checkpointDetails, checkpointJSON{}),
		get("/jobs/{job}/checkpoints/details/{checkpoint}/subtasks/{vertex}", "a stage's part of a checkpoint", h.vertexCheckpoint, vertexCheckpointJSON{}),
		fresh(get("/jobs/{job}/checkpoints/{trigger}", "how far a triggered checkpoint is", h.checkpointStatus, operationJSON{})),
		fresh(get("/jobs/{job}/savepoints/{trigger}", "how far a triggered savepoint is", h.savepointStatus, operationJSON{})),
		fresh(get("/savepoint-disposal/{trigger}", "how far a disposal is", h.disposalStatus, operationJSON{})),
		get("/jobs/{job}/resource-requirements", "bounds of the parallelism", h.resourceRequirements, map[string]requirementJSON{}),
		get("/jobs/{job}/jobmanager/config", "configuration, as of a job", h.jobJobManagerConfig, []settingJSON{}),
	}
}

func (h *Handler) vertexRoutes() []route {
	const v = "/jobs/{job}/vertices/{vertex}"
	return []route{
		get(v, "a stage with its subtasks", h.vertexDetails, vertexDetailsJSON{}),
		get(v+"/accumulators", "metrics of a stage's user code", h.vertexAccumulators, vertexAccumulatorsJSON{}),
		get(v+"/backpressure", "shares of time: busy, back pressured, idle", h.backPressure, backPressureJSON{}),
		get(v+"/flamegraph", "profile of the process", h.flameGraph, flameGraphJSON{}, "type"),
		get(v+"/jm-operator-metrics", "none: there are no operator coordinators", h.operatorMetrics, []metricJSON{}, "get"),
		get(v+"/metrics", "metrics of a stage by subtask", h.vertexMetrics, []metricJSON{}, "get"),
		get(v+"/subtasks/accumulators", "accumulators by subtask", h.subtasksAccumulators, subtasksAccumulatorsJSON{}),
		get(v+"/subtasks/metrics", "metrics over subtasks", h.vertexSubtaskMetrics, []aggregateJSON{}, "get", "agg", "subtasks"),
		get(v+"/subtasks/{subtask}", "a subtask", h.subtask, subtaskJSON{}),
		get(v+"/subtasks/{subtask}/attempts/{attempt}", "a subtask's present attempt", h.subtaskAttempt, subtaskJSON{}),
		get(v+"/subtasks/{subtask}/attempts/{attempt}/accumulators", "accumulators of an attempt", h.attemptAccumulators, subtaskAccumulatorsJSON{}),
		get(v+"/subtasks/{subtask}/metrics", "metrics of a subtask", h.oneSubtaskMetrics, []metricJSON{}, "get"),
		get(v+"/subtasktimes", "when subtasks entered their states", h.subtaskTimes, subtaskTimesJSON{}),
		get(v+"/taskmanagers", "a stage by TaskManager", h.vertexTaskManagers, vertexTaskManagersJSON{}),
		get(v+"/watermarks", "input watermarks by subtask", h.watermarks, []metricJSON{}),
	}
}

// processRoutes: JobManager and TaskManager are this process.
func (h *Handler) processRoutes() []route {
	const jm, tm = "/jobmanager", "/taskmanagers/{taskmanager}"
	return []route{
		get(jm+"/config", "configuration", h.jobManagerConfig, []settingJSON{}),
		get(jm+"/environment", "version of Go and modules", h.environment, environmentJSON{}),
		get(jm+"/metrics", "metrics of the process and its slots", h.jobManagerMetrics, []metricJSON{}, "get"),
		get(jm+"/thread-dump", "goroutines", h.threadDump, threadDumpJSON{}),
		get(jm+"/profiler", "none: see flamegraph", h.jobManagerProfiles, profilesJSON{}),
		get(jm+"/log", "the newest part of the log", h.wholeLog, plain{}),
		get(jm+"/stdout", "empty: everything goes to the log", h.stdout, plain{}),
		get(jm+"/logs", "list of logs", h.logList, logsJSON{}),
		get(jm+"/logs/{file}", "a log", h.namedLog, plain{}),
		get("/taskmanagers", "the one TaskManager: this process", h.taskManagers, taskManagersJSON{}),
		get("/taskmanagers/metrics", "metrics over TaskManagers", h.allTaskManagerMetrics, []aggregateJSON{}, "get", "agg", "taskmanagers"),
		get(tm, "this process and its memory", h.taskManagerDetails, taskManagerDetailsJSON{}),
		get(tm+"/metrics", "metrics of the process", h.taskManagerMetrics, []metricJSON{}, "get"),
		get(tm+"/thread-dump", "goroutines", ofTaskManager(h.threadDump), threadDumpJSON{}),
		get(tm+"/profiler", "none: see flamegraph", ofTaskManager(h.jobManagerProfiles), profilesJSON{}),
		get(tm+"/log", "the newest part of the log", ofTaskManager(h.wholeLog), plain{}),
		get(tm+"/stdout", "empty: everything goes to the log", ofTaskManager(h.stdout), plain{}),
		get(tm+"/logs", "list of logs", ofTaskManager(h.logList), logsJSON{}),
		get(tm+"/logs/{file}", "a log", ofTaskManager(h.namedLog), plain{}),
	}
}

func (h *Handler) changingRoutes() []route {
	const accepted = http.StatusAccepted
	all := []route{
		{method: http.MethodPatch, path: "/jobs/{job}", does: "cancel a job", serve: h.cancel, status: accepted, answer: empty{}, query: []string{"mode"}},
		{method: http.MethodGet, path: "/jobs/{job}/yarn-cancel", does: "cancel a job: Flink's web UI does it so", serve: h.cancel, status: accepted, answer: empty{}},
		{method: http.MethodPost, path: "/{job}/stop", does: "cancel a job: Beam's uber-jar client does it so", serve: h.beamStop, status: accepted, answer: empty{}},
		{method: http.MethodPost, path: "/jobs/{job}/stop", does: "stop a job with a savepoint", serve: h.stop, status: accepted, answer: triggerJSON{}, body: stopRequestJSON{}},
		{method: http.MethodPost, path: "/jobs/{job}/savepoints", does: "make a savepoint", serve: h.triggerSavepoint, status: accepted, answer: triggerJSON{}, body: savepointRequestJSON{}},
		{method: http.MethodPost, path: "/jobs/{job}/checkpoints", does: "make a checkpoint", serve: h.triggerCheckpoint, status: accepted, answer: triggerJSON{}, body: checkpointRequestJSON{}},
		{method: http.MethodPost, path: "/savepoint-disposal", does: "remove a savepoint", serve: h.disposeSavepoint, answer: triggerJSON{}, body: disposalRequestJSON{}},
		{method: http.MethodPost, path: "/savepoint-restore", does: "start the job of a savepoint again", serve: h.restore, answer: jarRunJSON{}, body: restoreRequestJSON{}},
		{method: http.MethodDelete, path: "/stored-jobs/{stored}", does: "remove what the store of the checkpoints holds of a job, but for savepoints", serve: h.forgetJob, answer: forgottenJSON{}, query: []string{"force"}},
		{method: http.MethodPut, path: "/jobs/{job}/resource-requirements", does: "rescale a job", serve: h.setResourceRequirements, answer: empty{}, body: map[string]requirementJSON{}},
		{method: http.MethodPatch, path: "/jobs/{job}/clientHeartbeat", does: "sign of life of a client", serve: h.heartbeat, status: accepted, answer: empty{}, body: map[string]any{}},
		{method: http.MethodPost, path: "/jobs", does: "refused: there is no JVM here", serve: h.submitGraph, answer: empty{}, upload: true},
		{method: http.MethodPost, path: "/jars/upload", does: "upload a jar that holds a Beam pipeline", serve: h.uploadJar, answer: jarUploadJSON{}, upload: true},
		{
			method: http.MethodPost, path: "/jars/{jar}/run", does: "run the Beam pipeline of a jar", serve: h.runJar, answer: jarRunJSON{},
			body: jarRunRequestJSON{}, query: []string{"entry-class", "program-args", "parallelism", "savepointPath", "allowNonRestoredState"},
		},
		{method: http.MethodDelete, path: "/cluster", does: "end the process, as SIGTERM does", serve: h.shutdown, answer: empty{}},
		{method: http.MethodDelete, path: "/jars/{jar}", does: "remove a jar", serve: h.deleteJar, answer: empty{}},
	}
	for k := range all {
		all[k].changes = true
	}
	return all
}
