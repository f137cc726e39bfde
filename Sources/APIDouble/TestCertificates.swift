/// An authority made for tests, with a certificate of a server and one of a client, valid for a hundred years. Everybody
/// knows these keys: they protect nothing.
public enum TestCertificates {
    public static let authority = """
        -----BEGIN CERTIFICATE-----
        MIIBlTCCATugAwIBAgIUXPKpbN2BaUpU5lwGnMNWajiekpUwCgYIKoZIzj0EAwIw
        HzEdMBsGA1UEAwwUa25ldGQgdGVzdCBhdXRob3JpdHkwIBcNMjYxMTIzMjE1NDI3
        WhgPMjEyNjEwMzAyMTU0MjdaMB8xHTAbBgNVBAMMFGtuZXRkIHRlc3QgYXV0aG9y
        aXR5MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE61eWWz3wNFJ9zYMCoxRmZlWm
        XyEmRAeJemrmX91kdC0q0NwQULkgaYpdrN9j1/CBvlMOT2Zkv7Y8oRwRITaxT6NT
        MFEwHQYDVR0OBBYEFGVSfPxoDJ3E74S3tnK38hFypIfSMB8GA1UdIwQYMBaAFGVS
        fPxoDJ3E74S3tnK38hFypIfSMA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwID
        SAAwRQIhAL6StHiwc69ZobWaoJfyvzAqHSXzAg+HSfRDJkubb0X9AiAxdWoYfKd0
        QiDqfAUVinPb5VsL26Aat71oPAAHIxFS1g==
        -----END CERTIFICATE-----
        """

    /// For localhost, 127.0.0.1, ::1, 10.96.0.1, fd00:10:96::1 and `kubernetes.default.svc.cluster.local` with what it may be
    /// shortened to.
    public static let server = """
        -----BEGIN CERTIFICATE-----
        MIICbDCCAhGgAwIBAgIUIOgmaa8btqYSDGEtoZqiHvkCHlQwCgYIKoZIzj0EAwIw
        HzEdMBsGA1UEAwwUa25ldGQgdGVzdCBhdXRob3JpdHkwIBcNMjYxMTIzMjE1NDI3
        WhgPMjEyNjEwMzAyMTU0MjdaMCgxFTATBgNVBAoMDHN5c3RlbTpub2RlczEPMA0G
        A1UEAwwGc2VydmVyMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEWDLl1y5WM3Ca
        bvTunsCDkAjuGJpojLpSBosHcxb1cldSFhe6VhkWtb7EkWW0YGNBYgevkcKWoIXC
        jGN4K6Zfm6OCAR4wggEaMIGkBgNVHREEgZwwgZmCCWxvY2FsaG9zdIIKa3ViZXJu
        ZXRlc4ISa3ViZXJuZXRlcy5kZWZhdWx0ghZrdWJlcm5ldGVzLmRlZmF1bHQuc3Zj
        giRrdWJlcm5ldGVzLmRlZmF1bHQuc3ZjLmNsdXN0ZXIubG9jYWyHBH8AAAGHEAAA
        AAAAAAAAAAAAAAAAAAGHBApgAAGHEP0AABAAlgAAAAAAAAAAAAEwEwYDVR0lBAww
        CgYIKwYBBQUHAwEwDgYDVR0PAQH/BAQDAgeAMAwGA1UdEwEB/wQCMAAwHQYDVR0O
        BBYEFDYcBEI8i2W9jLGAeDcvFpaXaL9ZMB8GA1UdIwQYMBaAFGVSfPxoDJ3E74S3
        tnK38hFypIfSMAoGCCqGSM49BAMCA0kAMEYCIQDQEtK1vTzk7WvDk60NAd6ykbdX
        VfD8CRcNBp5T7aVQhgIhANQ2fVUA6TWN7BhCuR0ex/9rDCA5rsMMcVI1uJLxFxEv
        -----END CERTIFICATE-----
        """

    public static let serverKey = """
        -----BEGIN PRIVATE KEY-----
        MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgVdjANaSc4pGiSHyU
        dKR/C8ceK2V3Az30lub5SJ/g0UShRANCAARYMuXXLlYzcJpu9O6ewIOQCO4YmmiM
        ulIGiwdzFvVyV1IWF7pWGRa1vsSRZbRgY0FiB6+RwpaghcKMY3grpl+b
        -----END PRIVATE KEY-----
        """

    public static let client = """
        -----BEGIN CERTIFICATE-----
        MIIBwTCCAWagAwIBAgIUIOgmaa8btqYSDGEtoZqiHvkCHlUwCgYIKoZIzj0EAwIw
        HzEdMBsGA1UEAwwUa25ldGQgdGVzdCBhdXRob3JpdHkwIBcNMjYxMTIzMjE1NDI3
        WhgPMjEyNjEwMzAyMTU0MjdaMCgxFTATBgNVBAoMDHN5c3RlbTpub2RlczEPMA0G
        A1UEAwwGY2xpZW50MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEDcaGUIC7m2Jh
        rXZ06Dp278Kv6esOm0hxhyjLyEmL9bMmtTLONExeg1F2MWEk15Glmih18C006g/5
        dbENVCzGJqN1MHMwEwYDVR0lBAwwCgYIKwYBBQUHAwIwDgYDVR0PAQH/BAQDAgeA
        MAwGA1UdEwEB/wQCMAAwHQYDVR0OBBYEFAAOXoka2lePpe2esIafL71Qkl0XMB8G
        A1UdIwQYMBaAFGVSfPxoDJ3E74S3tnK38hFypIfSMAoGCCqGSM49BAMCA0kAMEYC
        IQD9tyF1zubuEc33C06Vg+eJeq4ypTvuRWnjri1Q4cDGqwIhAORH0mthYyE18IRY
        g28Xuk0n1Pad0qlo5tSkhiom0sEx
        -----END CERTIFICATE-----
        """

    public static let clientKey = """
        -----BEGIN PRIVATE KEY-----
        MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgwL/cHqRfnmr3oCpI
        RcrjZ9DU7t9ojRa6oUoo6bB20RChRANCAAQNxoZQgLubYmGtdnToOnbvwq/p6w6b
        SHGHKMvISYv1sya1Ms40TF6DUXYxYSTXkaWaKHXwLTTqD/l1sQ1ULMYm
        -----END PRIVATE KEY-----
        """
}

extension APIDouble.Options.TLS {
    /// The certificates made for tests, which accepts the client's.
    public static let forTests = APIDouble.Options.TLS(
        certificates: TestCertificates.server, key: TestCertificates.serverKey,
        clientAuthority: TestCertificates.authority)
}
